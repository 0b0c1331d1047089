from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lrflow.models import CNN


@pytest.mark.parametrize(
    ("size", "stages", "quarters"), [(8, 3, 1), (28, 3, 4), (32, 3, 4), (33, 3, 4), (8, 1, 4), (1, 2, 1)]
)
def test_the_head_sees_at_most_four_quarters(size: int, stages: int, quarters: int) -> None:
    model = CNN([1, size, size], 10, widths=[4] * stages)
    assert model.head.in_features == 4 * quarters
    assert model(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_training_reaches_95_percent_on_digits(accuracy: Callable[..., float]) -> None:
    assert accuracy(CNN([1, 8, 8], 10), 0, epochs=6) >= 0.95

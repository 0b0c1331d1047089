from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lrflow.errors import ConfigError
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


def test_group_norm_sees_each_picture_by_itself() -> None:
    model, pictures = CNN([1, 8, 8], 10, widths=[12, 16], norm="group"), torch.randn(3, 1, 8, 8)
    assert [module.num_groups for module in model.modules() if isinstance(module, torch.nn.GroupNorm)] == [4, 8]
    torch.testing.assert_close(model(pictures)[:1], model(pictures[:1]))
    with pytest.raises(ConfigError, match="expected one of batch, group"):
        CNN([1, 8, 8], 10, norm="layer")

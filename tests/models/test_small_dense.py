from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lrflow.models import MLP, Logistic


def test_logistic_is_a_linear_map_that_starts_at_zero() -> None:
    model = Logistic([2, 3], 4)
    assert torch.equal(model(torch.randn(5, 2, 3)), torch.zeros(5, 4))
    nn.init.normal_(model.head.weight)
    x = torch.randn(5, 2, 3)
    assert torch.allclose(model(x), x.reshape(5, 6) @ model.head.weight.T)


def test_the_stages_keep_the_variance_at_the_start() -> None:
    model = MLP([64], 10, widths=[512] * 8, norm=False, dropout=0.0)
    x, powers = torch.randn(256, 64), []
    for name, stage in model.named_children():
        x = stage(x)
        if name.startswith("stage"):
            powers.append(x.square().mean().item())
    assert powers[0] == pytest.approx(1, rel=0.3)
    assert powers[-1] == pytest.approx(1, rel=0.5)


def test_norm_and_dropout_can_be_left_out() -> None:
    plain = MLP([4], 2, widths=[3], norm=False, dropout=0.0)
    assert [name for name, _ in plain.named_parameters()] == [
        "stage1.linear.weight",
        "stage1.linear.bias",
        "head.weight",
        "head.bias",
    ]
    x = torch.randn(3, 4)
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal((dropped := MLP([4], 2, dropout=0.5))(x), dropped(x))


def test_the_default_reaches_97_percent_on_digits(accuracy: Callable[..., float]) -> None:
    reached = []
    for seed in range(3):
        torch.manual_seed(seed)
        reached.append(accuracy(MLP([1, 8, 8], 10), seed, epochs=20))
    assert min(reached) >= 0.96
    assert sum(reached) / 3 >= 0.97

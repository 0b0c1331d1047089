from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lrflow.models import ResNet
from lrflow.models.small import Block


def test_a_block_starts_as_the_identity() -> None:
    model = ResNet([1, 8, 8], 10)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(model.stage1(x), x)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 1), (4, 4, 2), (4, 8, 2)])
def test_a_block_is_its_residual_on_top_of_its_shortcut(inputs: int, outputs: int, stride: int) -> None:
    block = Block(inputs, outputs, stride).eval()
    x = torch.randn(2, inputs, 7, 7)
    active = block.norm1(x).relu()
    residual = block.conv2(block.norm2(block.conv1(active)).relu())
    shortcut = x if block.shortcut is None else block.shortcut(active)
    assert (block.shortcut is None) is (inputs == outputs and stride == 1)
    assert torch.allclose(block(x), shortcut + residual)
    assert block(x).shape == (2, outputs, -(-7 // stride), -(-7 // stride))


def test_the_stages_double_the_width_and_halve_the_picture() -> None:
    model = ResNet([3, 32, 32], 10, width=4, blocks=[1, 2, 1, 1])
    x, shapes = torch.randn(1, 3, 32, 32), []
    for name, module in model.named_children():
        x = module(x)
        if name.startswith("stage"):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert [len(getattr(model, f"stage{i}")) for i in (1, 2, 3, 4)] == [1, 2, 1, 1]


def test_training_reaches_95_percent_on_digits(accuracy: Callable[..., float]) -> None:
    assert accuracy(ResNet([1, 8, 8], 10, width=8, blocks=[1, 1, 1]), 0, epochs=12) >= 0.95

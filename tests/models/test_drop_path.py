"""Drop path: what is left out, the rates over the depth, and that a population trains as its members alone."""

from __future__ import annotations

import pytest
import torch

from lrflow.errors import ConfigError
from lrflow.models import DropPath, ResNet, Transformer
from lrflow.models.transformer import Block


def test_examples_skip_a_branch_or_get_it_scaled() -> None:
    branch, drop = torch.rand(4000, 3, 2) + 1, DropPath(0.3)
    torch.manual_seed(0)
    found = drop(branch)
    stayed = found[:, 0, 0] != 0
    assert torch.allclose(found[stayed], branch[stayed] / 0.7)
    assert not found[~stayed].any()
    assert stayed.float().mean() == pytest.approx(0.7, abs=0.03)
    assert drop.eval()(branch) is branch
    torch.manual_seed(0)
    assert drop.train()(branch).equal(found)


def test_the_rates_grow_with_the_depth() -> None:
    resnet = ResNet([1, 8, 8], 10, 4, [1, 2, 1], drop_path=0.4)
    models = (resnet, Transformer([8], 30, 30, width=8, depth=4, heads=1, drop_path=0.4))
    for model in models:
        rates = [module.dropout.p for module in model.modules() if isinstance(module, DropPath)]
        assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    for without in (ResNet([1, 8, 8], 10, 4, [1]), Transformer([8], 30, 30, width=8, depth=1, heads=1)):
        assert not [module for module in without.modules() if isinstance(module, DropPath)]
    names = {name for name, _ in resnet.named_parameters()}
    assert names == {name for name, _ in ResNet([1, 8, 8], 10, 4, [1, 2, 1]).named_parameters()}
    with pytest.raises(ConfigError, match=r"model\.drop_path"):
        ResNet([1, 8, 8], 10, drop_path=1.0)


def test_a_block_without_its_branches_is_the_identity() -> None:
    x = torch.rand(16, 4, 8)
    block = Block(8, 1, 0.0, drop_path=0.5)
    torch.manual_seed(1)
    same = (block(x) == x).flatten(1).all(1)
    assert 0 < same.sum() < 16

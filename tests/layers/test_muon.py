"""Hidden matrices, heads, embeddings and vectors are distinguished in every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lrflow.errors import ConfigError
from lrflow.layers import MuonGroups, resolve
from lrflow.models import CNN, MLP, Logistic, ResNet

ROUTES = {"muon": {"lr": 0.02, "weight_decay": 0.0}}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gain = nn.Parameter(torch.ones(width))


class GPT(nn.Module):
    """A minimal GPT with parameters of every group."""

    def __init__(self, tied: bool, width: int = 8, words: int = 11) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.proj = nn.Linear(width, words, bias=False)
        if tied:
            self.proj.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words) + self.positions
        for block in self.blocks:
            x = x + block.out(block.qkv(block.norm(x) * block.gain)[..., : x.size(-1)])
        return self.proj(x)


def groups_of(model: nn.Module, peak: float = 0.1, **settings: Any) -> dict[str, Any]:
    rules = MuonGroups(**settings).rules(model)
    return {group.name: group for group in resolve(model, rules, peak, 0.05, routes=ROUTES)}


def names(group: Any) -> list[str]:
    return [name for name, _ in group.parameters]


@pytest.mark.parametrize("model", [MLP([4], 3), CNN([1, 8, 8], 3), ResNet([1, 8, 8], 3, blocks=[1, 1])], ids=repr)
def test_the_models_of_lrflow(model: nn.Module) -> None:
    groups = groups_of(model)
    assert list(groups) == ["hidden", "head", "vectors"]
    assert names(groups["head"]) == ["head.weight"]
    assert all(parameter.ndim >= 2 for _, parameter in groups["hidden"].parameters)
    assert all(parameter.ndim == 1 for _, parameter in groups["vectors"].parameters)
    assert "head.bias" in names(groups["vectors"])
    assert [group.route for group in groups.values()] == ["muon", None, None]
    assert [group.lr for group in groups.values()] == [0.02, 0.1, 0.1]
    assert [group.weight_decay for group in groups.values()] == [0.0, 0.05, 0.0]
    assert sum(group.tensors for group in groups.values()) == len(list(model.parameters()))


@pytest.mark.parametrize("tied", [False, True])
def test_a_gpt(tied: bool) -> None:
    """layers=nanogpt has the LRs of the record; a positional table is no hidden matrix."""
    option = yaml.safe_load((Path(__file__).parents[2] / "conf/layers/nanogpt.yaml").read_text())
    assert (option.pop("_target_"), option.pop("rules")) == ("lrflow.layers.MuonGroups", [])
    groups = groups_of(GPT(tied), 0.001, **option | ({"head": None} if tied else {}))
    assert set(groups) == {"hidden", "embedding", "vectors"} | (set() if tied else {"head"})
    assert names(groups["hidden"]) == [f"blocks.{n}.{matrix}.weight" for n in range(2) for matrix in ("qkv", "out")]
    assert names(groups["embedding"]) == ["embed.weight"]
    assert names(groups["vectors"]) == [
        "positions",
        *(f"blocks.{n}.{v}" for n in range(2) for v in ("gain", "norm.weight")),
    ]
    lrs = {name: pytest.approx(group.lr) for name, group in groups.items()}
    assert lrs == {"hidden": 0.02, "embedding": 0.7, "vectors": 0.015} | ({} if tied else {"head": 0.004})
    assert groups["vectors"].weight_decay == 0.05


def test_a_parameter_tied_to_an_embedding_is_an_embedding() -> None:
    assert "head" not in groups_of(GPT(tied=True), head="proj.*")


def test_frozen_parameters_are_left_to_the_model() -> None:
    model = MLP([4], 3)
    model.stage1.requires_grad_(False)  # type: ignore[union-attr]
    groups = groups_of(model)
    assert names(groups["hidden"]) == ["stage2.linear.weight"]
    assert groups["frozen"].tensors == 4


def test_several_heads() -> None:
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "left": nn.Linear(4, 2), "right": nn.Linear(4, 3)})
    groups = groups_of(model, head=["left.*", r"re:rig.t\..*"])
    assert names(groups["head"]) == ["left.weight", "right.weight"]


def refused(model: nn.Module, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        MuonGroups(**settings).rules(model)
    return str(caught.value)


def test_a_model_without_hidden_matrices() -> None:
    assert "no hidden matrix to route to muon" in refused(Logistic([4], 3))


def test_a_head_of_another_name_is_looked_for() -> None:
    reported = refused(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    assert reported.startswith("layers.head = 'head.*': matches none of the 4 parameter names")
    assert "layers.head='1.*'" in reported
    assert "layers.head=null" in reported
    assert "layers.head='classifier.*'" in refused(nn.ModuleDict({"classifier": nn.Linear(2, 2)}), head="clasifier.*")


def test_an_lr_of_no_group_or_that_is_none() -> None:
    assert "layers.lr.haed = '2x': there is no such group\n    did you mean head?" in refused(
        MLP([4], 3), lr={"haed": "2x"}
    )
    assert "layers.lr.head = '-1x'" in refused(MLP([4], 3), lr={"head": "-1x"})

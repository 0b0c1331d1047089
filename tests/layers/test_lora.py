from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lrflow.config import compose, instantiate
from lrflow.layers import LoRAGroups, resolve
from lrflow.models import MLP


def adapted() -> nn.Module:
    """A linear layer, an embedding and a head with peft's names: weights frozen, adapters and the head train."""
    linear = nn.ModuleDict({"base_layer": nn.Linear(4, 4), "lora_A": nn.ModuleDict(), "lora_B": nn.ModuleDict()})
    linear["lora_A"]["default"], linear["lora_B"]["default"] = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
    linear["lora_magnitude_vector"] = nn.ParameterDict({"default": nn.Parameter(torch.ones(4))})
    words = nn.ModuleDict({"base_layer": nn.Embedding(7, 4)})
    for part, shape in (("lora_embedding_A", (2, 7)), ("lora_embedding_B", (4, 2))):
        words[part] = nn.ParameterDict({"default": nn.Parameter(torch.zeros(shape))})
    for layer in (linear, words):
        layer["base_layer"].requires_grad_(False)
    return nn.ModuleDict({"words": words, "query": linear, "head": nn.Linear(4, 2)})


def test_groups_are_those_of_peft() -> None:
    """`create_loraplus_optimizer` (peft 0.21): B and vectors at the ratio, embeddings apart, all else at the peak."""
    option = compose(["layers=lora"]).layers.node()  # type: ignore[union-attr]
    model = adapted()
    groups = resolve(model, instantiate(option, "layers").rules(model), lr=2e-4, weight_decay=0.1)
    made = {name: (group.lr, group.weight_decay) for group in groups for name, _ in group.parameters}
    assert made.pop("query.base_layer.weight") == (0.0, None)
    expected = {}
    for name, parameter in model.named_parameters():
        if "embedding" in name:
            expected[name] = (1e-6, 0.1)
        elif "lora_B" in name or parameter.ndim == 1:
            expected[name] = (16 * 2e-4, 0.0 if name.endswith("bias") else 0.1)
        else:
            expected[name] = (2e-4, 0.1)
    assert made == {
        **made,
        **{name: pytest.approx(expected[name]) for name, p in model.named_parameters() if p.requires_grad},
    }
    assert [group.name for group in groups] == ["A", "B", "B/no_decay", "embedding", "rest", "frozen"]


def test_without_adapters(refused: Callable) -> None:
    found = refused(LoRAGroups().rules, MLP([4], 3))
    assert "no parameter is named lora_A" in found["layers"]
    model = adapted()
    model["query"].requires_grad_(False)
    model["words"].requires_grad_(False)
    assert "every adapter is frozen" in refused(LoRAGroups().rules, model)["layers"]


def test_values_out_of_range(refused: Callable) -> None:
    assert list(refused(LoRAGroups, ratio=0, embedding_lr="fast")) == ["layers.ratio", "layers.embedding_lr"]
    assert list(refused(LoRAGroups, ratio="a", embedding_lr=-1)) == ["layers.ratio", "layers.embedding_lr"]

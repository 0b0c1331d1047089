from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lrflow.layers import LayerDecay, Rule, resolve
from lrflow.layers.layer_decay import TOKENS
from lrflow.models import CNN, MLP, Logistic, ResNet


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm2 = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))


class Transformer(nn.Module):
    """A vision transformer's parameters, by timm's names."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.patch_embed = nn.Conv2d(3, 4, 2, 2)
        self.blocks = nn.ModuleList(Attend() for _ in range(depth))
        self.head = nn.Linear(4, 10)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(5, 4))
        self.layer = nn.ModuleList(Attend() for _ in range(2))
        self.norm = nn.LayerNorm(4)


class Language(nn.Module):
    """Blocks at some depth, a norm after them, an output tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)
        self.encoder = Encoder()
        self.pooler = nn.Linear(4, 4)
        self.output = nn.Linear(4, 9)
        self.output.weight = self.embeddings.weight


def layers(model: nn.Module) -> dict[str, float]:
    """Layer -> factor, from the rules without no_decay."""
    return {rule.name: rule.scale(1.0) for rule in LayerDecay(0.5, no_decay=False).rules(model)}


def beit(name: str, depth: int) -> int:
    """The layer of a parameter in BEiT's published code (optim_factory.py); the input is 0, the head depth + 1."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else depth + 1


@given(st.integers(1, 6), st.floats(0.3, 1.0))
def test_a_transformer_has_the_published_factors(depth: int, decay: float) -> None:
    model = Transformer(depth)
    groups = resolve(model, LayerDecay(decay).rules(model), lr=0.01)
    scales = {name: group.scale for group in groups for name, _ in group.parameters}
    assert scales == {name: decay ** (depth + 1 - beit(name, depth)) for name, _ in model.named_parameters()}
    lrs = {name: group.lr for group in groups for name, _ in group.parameters}
    assert lrs == {name: pytest.approx(0.01 * scale) for name, scale in scales.items()}


def test_biases_and_norms_go_without_weight_decay_in_groups_of_their_own() -> None:
    model = Transformer(1)
    groups = {group.name: group for group in resolve(model, LayerDecay().rules(model), lr=1.0)}
    assert list(groups) == [
        "patch_embed/no_decay",
        "patch_embed",
        "blocks.0/no_decay",
        "blocks.0",
        "head/no_decay",
        "head",
    ]
    for name, group in groups.items():
        assert group.weight_decay == (0.0 if name.endswith("/no_decay") else None)
    assert [name for name, _ in groups["patch_embed"].parameters] == ["patch_embed.weight"]
    assert {"cls_token", "pos_embed"} < {name for name, _ in groups["patch_embed/no_decay"].parameters}
    assert all("norm" in name or "bias" in name for name, _ in groups["blocks.0/no_decay"].parameters)


class Scaled(nn.Module):
    """LayerScale, as timm names it."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(4), nn.MultiheadAttention(4, 2), Scaled()


class ViT(nn.Module):
    """The names of timm's VisionTransformer, with and without tokens, LayerScale and a norm at the end."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.cls_token, self.reg_token = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 2, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 4, 2, 2)})
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)


class ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))
        self.conv_dw, self.norm = nn.Conv2d(4, 4, 3, groups=4), nn.LayerNorm(4)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)})


class ConvNeXtStage(nn.Module):
    def __init__(self, blocks: int, first: bool) -> None:
        super().__init__()
        self.downsample = nn.Identity() if first else nn.Sequential(nn.LayerNorm(4), nn.Conv2d(4, 4, 2, 2))
        self.blocks = nn.Sequential(*(ConvNeXtBlock() for _ in range(blocks)))


class NormedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(4), nn.Linear(4, 3)


class ConvNeXt(nn.Module):
    """The names of timm's ConvNeXt."""

    def __init__(self, blocks: list[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4))
        self.stages = nn.Sequential(*(ConvNeXtStage(count, not index) for index, count in enumerate(blocks)))
        self.head = NormedHead()


def timm(model: nn.Module, decay: float) -> dict[str, tuple[float, float | None]]:
    """Factor and weight decay of each parameter in timm 1.0.31 (`param_groups_layer_decay`), from its patterns.

    What no pattern matches is the head; `99999` means the layer before. No weight decay: at most one dimension, and the
    names of the model's `no_weight_decay`.
    """
    vit = [(r"cls_token|reg_token|pos_embed|patch_embed", 0), (r"blocks\.(\d+)", 1), (r"norm", 99999)]
    convnext = [(r"stem", 0), (r"stages\.(\d+)\.downsample", 1), (r"stages\.(\d+)\.blocks\.(\d+)", 1)]
    places: dict[str, tuple[float, ...]] = {}
    for name, _ in model.named_parameters():
        found = [(re.match(pattern, name), at) for pattern, at in (vit if isinstance(model, ViT) else convnext)]
        match, at = next(((match, at) for match, at in found if match), (None, math.inf))
        numbers = tuple(map(float, match.groups())) if match else ()
        numbers = (*numbers, 0.0) if "downsample" in name else numbers
        places[name] = (at, *numbers)
    order = sorted({place for place in places.values() if place[0] != 99999})
    last = max(index for index, place in enumerate(order) if place[0] < 99999)
    ids = {name: order.index(place) if place[0] != 99999 else last for name, place in places.items()}
    return {
        name: (
            decay ** (max(ids.values()) - ids[name]),
            0.0 if parameter.ndim <= 1 or name in ("pos_embed", "cls_token", "reg_token", "dist_token") else None,
        )
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("model", [ViT(1), ViT(3), ConvNeXt([1, 1, 2, 1]), ConvNeXt([3, 3, 9, 3])])
def test_groups_are_those_of_timm(model: nn.Module) -> None:
    groups = resolve(model, LayerDecay(0.7, last_norm="block").rules(model), lr=1.0)
    made = {name: (group.scale, group.weight_decay) for group in groups for name, _ in group.parameters}
    assert made == {name: (pytest.approx(scale, rel=1e-12), decay) for name, (scale, decay) in timm(model, 0.7).items()}


class HubStage(nn.Module):
    """The names of transformers' ConvNeXt."""

    def __init__(self, blocks: int, first: bool) -> None:
        super().__init__()
        self.downsampling_layer = nn.ModuleList([] if first else [nn.LayerNorm(4), nn.Conv2d(4, 4, 2, 2)])
        self.layers = nn.ModuleList(ConvNeXtBlock() for _ in range(blocks))


def published_layer(name: str) -> int:
    """Number of a parameter's layer in facebookresearch/ConvNeXt, `get_num_layer_for_convnext`, by timm's names."""
    parts = name.split(".")
    if parts[0] == "stem":
        return 0
    if parts[0] != "stages":
        return 13
    stage = int(parts[1])
    if stage == 2:
        return 3 + (int(parts[3]) // 3 if parts[2] == "blocks" else 0)
    return 12 if stage == 3 else stage + 1


@pytest.mark.parametrize("stage", [ConvNeXtStage, HubStage])
def test_three_blocks_are_one_layer_in_convnext(stage: type[nn.Module]) -> None:
    model = ConvNeXt([3, 3, 27, 3])
    model.stages = nn.Sequential(*(stage(count, not index) for index, count in enumerate([3, 3, 27, 3])))
    made = scales(model, LayerDecay(0.8, blocks_per_layer=3))
    names = {name: name.replace(".layers.", ".blocks.") for name in made}
    assert made == {name: pytest.approx(0.8 ** (13 - published_layer(timms))) for name, timms in names.items()}
    groups = [rule.name for rule in LayerDecay(0.8, no_decay=False, blocks_per_layer=3).rules(model)]
    assert len(groups) == 14
    assert groups[3].endswith("stages.2.blocks.0-2" if stage is ConvNeXtStage else "stages.2.layers.0-2")


@pytest.mark.parametrize(
    ("count", "expected"), [(2, [0, 1, 1, 2, 2, 3]), (3, [0, 1, 1, 1, 2, 3]), (9, [0, 1, 1, 1, 1, 2])]
)
def test_the_last_layer_of_a_stack_may_have_fewer_blocks(count: int, expected: list[int]) -> None:
    model = ViT(4)
    made = scales(model, LayerDecay(0.5, blocks_per_layer=count))
    of_blocks = [made[f"blocks.{index}.norm1.weight"] for index in range(4)]
    found = [made["cls_token"], *of_blocks, made["head.weight"]]
    assert found == [0.5 ** (expected[-1] - depth) for depth in expected]


def test_blocks_that_cannot_be_counted_together(refused: Callable) -> None:
    assert list(refused(LayerDecay, blocks_per_layer=0)) == ["layers.blocks_per_layer"]
    found = refused(LayerDecay(blocks_per_layer=3).rules, MLP([1, 8, 8], 10, widths=[8, 8]))
    assert "no stack of blocks" in found["layers.blocks_per_layer"]


def test_the_last_norm_is_the_heads_in_beit_and_mae() -> None:
    model = ViT(2)
    made = scales(model, LayerDecay(0.5))
    assert made["norm.weight"] == made["head.weight"] == 1.0
    assert {name: scale for name, scale in made.items() if "norm." not in name} == {
        name: scale for name, (scale, _) in timm(model, 0.5).items() if "norm." not in name
    }


def scales(model: nn.Module, maker: LayerDecay) -> dict[str, float]:
    return {name: g.scale for g in resolve(model, maker.rules(model), lr=1.0) for name, _ in g.parameters}


def test_factors_multiply_those_of_the_layers() -> None:
    """DINOv2 trains the patch embedding at a fifth of its layer's LR."""
    model, factors = ViT(2), {"*patch_embed.*": 0.2, "head.bias": 3.0}
    plain, made = scales(model, LayerDecay(0.9)), scales(model, LayerDecay(0.9, factors=factors))
    changed = {"patch_embed.proj.weight": 0.2, "patch_embed.proj.bias": 0.2, "head.bias": 3.0}
    assert made == {name: pytest.approx(scale * changed.get(name, 1.0)) for name, scale in plain.items()}
    names = [rule.name for rule in LayerDecay(0.9, factors=factors).rules(model)]
    assert {"patch_embed.proj/0.2x", "patch_embed.proj/0.2x/no_decay", "head/3x/no_decay"} <= {*names}


def test_names_that_the_model_lacks(refused: Callable) -> None:
    model = ViT(1)
    found = refused(LayerDecay(tokens=["cls_tokn", *TOKENS], factors={"patch_emb.*": 0.2}).rules, model)
    assert list(found) == ["layers.tokens", "layers.factors"]
    assert "nearest: cls_token" in found["layers.tokens"]
    assert "nearest: patch_embed.*" in found["layers.factors"]


def test_the_factor_stops_at_min_scale() -> None:
    model = Transformer(3)
    scales = [rule.scale(1.0) for rule in LayerDecay(0.5, min_scale=0.2, no_decay=False).rules(model)]
    assert scales == [0.2, 0.2, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Logistic([1, 8, 8], 10), {"head": 1.0}),
        (MLP([1, 8, 8], 10, widths=[8, 8]), {"stage1.linear": 0.25, "stage2.linear": 0.5, "head": 1.0}),
        (CNN([1, 8, 8], 10, widths=[4, 4]), {"stage1.conv": 0.25, "stage2.conv": 0.5, "head": 1.0}),
        (
            ResNet([1, 8, 8], 10, width=2, blocks=[1, 2]),
            {"stem": 2**-4, "stage1.0": 2**-3, "stage2.0": 0.25, "stage2.1": 0.5, "head": 1.0},
        ),
        (
            Language(),
            {"embeddings": 2**-4, "encoder.layer.0": 2**-3, "encoder.layer.1": 0.25, "pooler": 0.5, "output": 1.0},
        ),
        (
            nn.Sequential(Encoder(), nn.Linear(4, 2)),
            {"0.layer.0": 0.25, "0.layer.1": 0.5, "1": 1.0},
        ),
        (nn.ModuleDict({"_orig_mod": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))}), {"0": 0.5, "1": 1.0}),
        (nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)), {"1": 1.0}),
        (nn.LayerNorm(2), {"model": 1.0}),
        (nn.Linear(2, 2), {"model": 1.0}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_of_common_models(model: nn.Module, expected: dict[str, float]) -> None:
    assert layers(model) == expected
    groups = resolve(model, LayerDecay().rules(model), lr=1.0)
    assert sum(group.tensors for group in groups) == len(list(model.parameters()))


def test_norms_and_tables_belong_to_the_layer_before_them_but_the_last_norm() -> None:
    model = Language()
    groups = resolve(model, LayerDecay(no_decay=False).rules(model), lr=1.0)
    held = {group.name: {name for name, _ in group.parameters} for group in groups}
    assert held["embeddings"] == {"embeddings.weight", "norm.weight", "norm.bias", "encoder.positions"}
    assert held["output"] == {"output.bias"}  # its weight is the embedding
    assert {"encoder.norm.weight", "encoder.norm.bias"} <= held["pooler"]


def test_a_wrapped_model_has_the_layers_of_the_model() -> None:
    inner = nn.ModuleDict(
        {"features": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), "head": nn.Linear(2, 2)}
    )
    assert layers(nn.ModuleDict({"model": inner})) == {
        "model.features.0": 0.25,
        "model.features.2": 0.5,
        "model.head": 1.0,
    }


def test_frozen_layers_keep_their_place() -> None:
    model = Transformer(2)
    model.patch_embed.requires_grad_(False)
    model.blocks[0].requires_grad_(False)
    groups = resolve(model, LayerDecay(0.5, no_decay=False).rules(model), lr=1.0)
    assert [(group.name, group.scale) for group in groups] == [
        ("patch_embed", 2**-3),  # its tokens train
        ("blocks.1", 0.5),
        ("head", 1.0),
        ("frozen", 0.0),
    ]


def test_names_that_look_like_globs() -> None:
    model = nn.ModuleDict({"a[1]*": nn.Linear(2, 2), "a1": nn.Linear(2, 2)})
    groups = resolve(model, LayerDecay(no_decay=False).rules(model), lr=1.0)
    assert [group.tensors for group in groups] == [2, 2]


def test_custom_rules_may_come_first(net: nn.Module) -> None:
    rules = [Rule("slow", match="embed.*", lr="0.01x"), *LayerDecay(no_decay=False).rules(net)[1:]]
    assert [group.name for group in resolve(net, rules, lr=1.0)] == ["slow", "backbone", "head"]


def test_values_out_of_range(refused: Callable) -> None:
    assert list(refused(LayerDecay, decay=1.5, min_scale=-0.1)) == ["layers.decay", "layers.min_scale"]
    assert list(refused(LayerDecay, decay=0)) == ["layers.decay"]
    assert list(refused(LayerDecay, decay=float("nan"))) == ["layers.decay"]
    assert list(refused(LayerDecay, decay="a", min_scale=None)) == ["layers.decay", "layers.min_scale"]
    assert list(refused(LayerDecay, tokens=["re:("], last_norm="hed")) == ["layers.tokens", "layers.last_norm"]
    assert list(refused(LayerDecay, factors={"a": 0, "b": "x"})) == ["layers.factors.a", "layers.factors.b"]
    assert list(refused(LayerDecay, factors=[0.2])) == ["layers.factors"]

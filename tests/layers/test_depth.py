"""Layers in the order in which a model uses them, whatever the order of declaration; blocks, towers, dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.layers import GradualUnfreezing, LayerDecay, resolve
from lrflow.layers.depth import layers_of
from lrflow.layers.parameters import Parameters, UseTracer
from lrflow.models import CNN, MLP, ResNet


def depths(model: nn.Module, example: Any = None) -> dict[str, int]:
    """Layer -> depth, in order; None: no forward pass is traced."""
    return {layer.name: layer.depth for layer in layers_of(seen(model, example))}


def seen(model: nn.Module, example: Any = None) -> Parameters:
    parameters = Parameters.of(model)
    if example is None:
        return parameters
    with torch.no_grad(), UseTracer(model) as trace:
        model.eval()(example)
    return replace(parameters, uses=trace.uses)


class Reversed(nn.Module):
    """Declared from the head down; its submodules are not called, their weights are read."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.LayerNorm(4)
        self.upper = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.lower = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.linear(x, self.lower.weight, self.lower.bias)
        return self.head(self.norm(self.upper(x.relu())).to(self.head.weight.dtype))


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        return x + self.mlp(x)


class ViT(nn.Module):
    """As timm names its parts, the head declared first."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(4, 10)
        self.norm = nn.LayerNorm(4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.blocks = nn.ModuleList(Attend() for _ in range(depth))
        self.patch_embed = nn.Conv2d(3, 4, 2, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class ConvBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.pointwise = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(self.norm(self.depthwise(x)))


class Stage(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(nn.GroupNorm(1, inputs), nn.Conv2d(inputs, width, 2, 2))
        self.blocks = nn.Sequential(ConvBlock(width), ConvBlock(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


def conv_next() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, 2), nn.Sequential(Stage(4, 4), Stage(4, 8)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


class Towers(nn.Module):
    """Two towers of different depths into one head, and an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tall = nn.ModuleList(Expert() for _ in range(3))
        self.short = nn.Sequential(Expert(), Expert())
        self.head = nn.Linear(8, 2)
        self.spare = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.tall:
            x = block(x)
        return self.head(torch.cat([x, self.short(y)], -1))


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert() for _ in range(3))
        self.gate = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        given = torch.stack([expert(x) for expert in self.experts], -1)
        return (given * self.gate(x).softmax(-1).unsqueeze(1)).sum(-1)


class Named(nn.Module):
    """A dictionary of blocks, used in another order than it was filled, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"second": Expert(), "out": nn.Linear(4, 2), "first": Expert()})

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts
        return parts["out"](parts["first"](parts["second"](parts["first"](x))))


class Pairs(nn.Module):
    """A list of lists, as many published transformers hold their blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([Attend(), Expert()]) for _ in range(2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for attend, feed in self.layers:
            x = feed(attend(x))
        return self.head(x)


class Masked(nn.Module):
    """Weights that are masked by a buffer, noise of its own, a result that is written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(4, 4).tril())
        self.upper, self.lower = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 8)
        out[:, :4] = functional.linear(torch.randn_like(x) + x, self.lower.weight * self.mask, self.lower.bias)
        return self.upper(out[:, :4])


X = torch.randn(2, 4)
TOKENS = torch.randn(2, 3, 4)
IMAGES = torch.randn(2, 3, 8, 8)
GREY = torch.randn(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("model", "example", "expected"),
    [
        (Reversed, X, {"lower": 0, "upper": 1, "head": 2}),
        (ViT, IMAGES[..., :4, :4], {"patch_embed": 0, "blocks.0": 1, "blocks.1": 2, "blocks.2": 3, "head": 4}),
        (
            conv_next,
            IMAGES,
            {
                "0": 0, "1.0.blocks.0": 1, "1.0.blocks.1": 2, "1.1.blocks.0": 3, "1.1.blocks.1": 4, "4": 5,
            },
        ),
        (Towers, X, {"tall.0": 0, "tall.1": 1, "tall.2": 2, "short.0": 1, "short.1": 2, "head": 3,
                     "spare": 3}),
        (lambda: nn.Sequential(Mixture(), Mixture(), nn.Linear(4, 2)), X, {"0": 0, "1": 1, "2": 2}),
        (Named, X, {"parts.first": 0, "parts.second": 1, "parts.out": 2}),
        (Pairs, TOKENS, {"layers.0": 0, "layers.1": 1, "head": 2}),
        (Masked, X, {"lower": 0, "upper": 1}),
        (lambda: MLP([4], 3, widths=[8, 8]), X, {"stage1.linear": 0, "stage2.linear": 1, "head": 2}),
        (lambda: CNN([1, 8, 8], 3, widths=[4, 4]), GREY, {"stage1.conv": 0, "stage2.conv": 1, "head": 2}),
        (
            lambda: ResNet([1, 8, 8], 3, width=2, blocks=[1, 2]),
            GREY,
            {"stem": 0, "stage1.0": 1, "stage2.0": 2, "stage2.1": 3, "head": 4},
        ),
    ],
    ids=["reversed", "vit", "convnext", "towers", "mixture", "dictionary", "pairs", "masked", "mlp", "cnn", "resnet"],
)  # fmt: skip
def test_depth_follows_the_order_of_use(
    model: Callable[[], nn.Module], example: Tensor, expected: dict[str, int]
) -> None:
    made = model()
    assert depths(made, example) == expected
    held = [entry.name for layer in layers_of(seen(made, example)) for entry in layer.entries]
    assert sorted(held) == sorted(name for name, _ in made.named_parameters())


def test_norms_and_bare_parameters_go_with_what_they_are_applied_to() -> None:
    layers = {
        layer.name: {entry.name for entry in layer.entries} for layer in layers_of(seen(ViT(), IMAGES[..., :4, :4]))
    }
    assert layers["patch_embed"] == {"patch_embed.weight", "patch_embed.bias", "cls_token", "pos_embed"}
    assert layers["head"] == {"head.weight", "head.bias", "norm.weight", "norm.bias"}  # the norm before the head


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Reversed(), ["head", "upper", "lower"]),
        (Pairs(), ["layers.0", "layers.1", "head"]),
        (Named(), ["parts.second", "parts.out", "parts.first"]),
        (
            nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)) for _ in range(3))),
            ["0", "1", "2"],
        ),
        (
            nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)), nn.Linear(3, 2)),
            ["0.0", "0.2", "1"],
        ),
    ],
    ids=["reversed", "pairs", "dictionary", "blocks", "features and a head"],
)
def test_unseen_it_is_the_order_of_declaration_and_blocks_are_not_opened(model: nn.Module, expected: list[str]) -> None:
    assert depths(model) == {name: depth for depth, name in enumerate(expected)}


def test_layers_of_one_depth_share_a_rate_and_a_start() -> None:
    held = seen(Towers(), X)
    groups = resolve(held, LayerDecay(0.5, no_decay=False).rules_of(held), lr=1.0)
    assert {group.name: group.scale for group in groups} == {
        "tall.0": 0.125, "tall.1": 0.25, "short.0": 0.25, "tall.2": 0.5, "short.1": 0.5,
        "head": 1.0, "spare": 1.0,
    }  # fmt: skip
    late = GradualUnfreezing(every=10, no_decay=False).rules_of(held)
    starts = {rule.name: 0 if rule.unfreeze is None else rule.unfreeze.value for rule in late}
    assert starts == {
        "tall.0": 30, "tall.1": 20, "short.0": 20, "tall.2": 10, "short.1": 10, "head": 0, "spare": 0,
    }  # fmt: skip

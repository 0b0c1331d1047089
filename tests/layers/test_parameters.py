from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lrflow.layers.parameters import inventory


def kinds(model: nn.Module) -> dict[str, set[str]]:
    return {entry.name: set(entry.kinds) for entry in inventory(model)}


class RootMeanSquareNorm2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))


class NormalHead(nn.Module):  # not a norm, despite its name
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm2d(3, affine=True),
        nn.LayerNorm([3, 4, 4]),
        nn.GroupNorm(1, 3),
        nn.RMSNorm(3),
        RootMeanSquareNorm2d(),
        type("BatchNormAct", (nn.BatchNorm2d,), {})(3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_norms(module: nn.Module) -> None:
    found = kinds(module)
    assert found
    assert all("norm" in kind and "matrix" not in kind for kind in found.values())


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 4), {"weight": {"matrix"}, "bias": {"bias", "vector"}}),
        (nn.Conv2d(3, 4, 3), {"weight": {"matrix"}, "bias": {"bias", "vector"}}),
        (nn.LayerNorm(3), {"weight": {"norm", "vector"}, "bias": {"norm", "bias", "vector"}}),
        (nn.Embedding(5, 3), {"weight": {"embedding"}}),
        (nn.EmbeddingBag(5, 3), {"weight": {"embedding"}}),
        (nn.PReLU(), {"weight": {"vector"}}),
        (NormalHead(), {"scale": {"vector"}}),
        (
            nn.LSTM(3, 4),
            {
                "weight_ih_l0": {"matrix"},
                "weight_hh_l0": {"matrix"},
                "bias_ih_l0": {"bias", "vector"},
                "bias_hh_l0": {"bias", "vector"},
            },
        ),
        (
            nn.MultiheadAttention(4, 2, add_bias_kv=True),
            {
                "in_proj_weight": {"matrix"},
                "in_proj_bias": {"bias", "vector"},
                "bias_k": {"bias"},
                "bias_v": {"bias"},
                "out_proj.weight": {"matrix"},
                "out_proj.bias": {"bias", "vector"},
            },
        ),
        (
            parametrizations.weight_norm(nn.Linear(3, 4)),
            {
                "bias": {"bias", "vector"},
                "parametrizations.weight.original0": {"matrix"},
                "parametrizations.weight.original1": {"matrix"},
            },
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_kinds(module: nn.Module, expected: dict[str, set[str]]) -> None:
    assert kinds(module) == expected


def test_every_parameter_once_in_the_order_of_torch(tied: nn.Module) -> None:
    entries = inventory(tied)
    assert [(entry.name, entry.parameter) for entry in entries] == [*tied.named_parameters()]
    assert [place.name for place in entries[0].places] == ["embed.weight", "head.weight"]
    assert entries[0].kinds == {"embedding"}


def test_a_shared_module_gives_its_parameters_two_names() -> None:
    block = nn.Linear(2, 2)
    entries = inventory(nn.Sequential(block, nn.ReLU(), block))
    assert [[place.name for place in entry.places] for entry in entries] == [
        ["0.weight", "2.weight"],
        ["0.bias", "2.bias"],
    ]


def test_a_parametrised_weight_is_held_by_its_layer() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3)))
    weight = {entry.name: entry for entry in inventory(model)}["0.parametrizations.weight.original"]
    assert weight.places[0].holder is model[0]
    assert weight.places[0].attribute == "weight"


def test_compiled_models_keep_their_names() -> None:
    def compiled(model: nn.Module) -> nn.Module:  # as torch.compile wraps; compiling takes seconds
        return nn.ModuleDict({"_orig_mod": model})

    model = compiled(nn.Sequential(nn.Linear(2, 2), compiled(nn.Linear(2, 2))))
    assert [entry.name for entry in inventory(model)] == ["0.weight", "0.bias", "1.weight", "1.bias"]

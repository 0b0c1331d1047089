"""What holds for every model; each one's own is beside this file."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import cross_entropy

from lrflow import models
from lrflow.errors import ConfigError
from lrflow.layers import LayerDecay, Rule, resolve

EVERY = [models.Logistic, models.MLP, models.CNN, models.ResNet]
every = pytest.mark.parametrize("cls", EVERY)


@every
@pytest.mark.parametrize("shape", [[1, 8, 8], [1, 28, 28], [3, 32, 32], [2, 9, 5]])
@pytest.mark.parametrize("outputs", [1, 10])
def test_pictures_of_any_size(cls: type[nn.Module], shape: list[int], outputs: int) -> None:
    assert cls(shape, outputs)(torch.randn(3, *shape)).shape == (3, outputs)


@pytest.mark.parametrize("cls", [models.Logistic, models.MLP])
@pytest.mark.parametrize("shape", [[5], [2, 3], [2, 3, 4, 5]])
def test_inputs_of_any_shape(cls: type[nn.Module], shape: list[int]) -> None:
    assert cls(shape, 2)(torch.randn(3, *shape)).shape == (3, 2)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (models.Logistic([1, 8, 8], 10), 64 * 10 + 10),
        (models.MLP([1, 8, 8], 10), 65 * 256 + 257 * 256 + 4 * 256 + 257 * 10),
        (models.CNN([1, 28, 28], 10), 9 * (16 + 16 * 32 + 32 * 64) + 2 * 112 + (4 * 64 + 1) * 10),
    ],
    ids=["logistic", "mlp", "cnn"],
)
def test_sizes(model: nn.Module, count: int) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@every
def test_names_make_good_groups(cls: type[nn.Module]) -> None:
    model = cls([1, 8, 8], 10)
    names = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    assert names[-1] == "head"
    assert {name.rstrip("0123456789") for name in names} <= {"stem", "stage", "norm", "head"}
    assert [name for name in names if name.startswith("stage")] == [
        f"stage{i + 1}" for i in range(sum(name.startswith("stage") for name in names))
    ]
    assert resolve(model, LayerDecay().rules(model), lr=1.0)[-1].name == "head"
    head = resolve(
        model, [Rule("head", match="head.*"), Rule("no", match="*", freeze=True)][: 2 - (len(names) == 1)], 1.0
    )[0]
    assert [name for name, _ in head.parameters] == ["head.weight", "head.bias"]


@every
def test_the_first_guess_is_close_to_uniform(cls: type[nn.Module]) -> None:
    model = cls([1, 28, 28], 10)
    loss = cross_entropy(model(torch.randn(64, 1, 28, 28)), torch.arange(64) % 10)
    assert loss.item() == pytest.approx(math.log(10), rel=0.1)


@every
def test_all_parameters_train_after_a_few_steps(cls: type[nn.Module]) -> None:
    model = cls([1, 8, 8], 3)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.arange(8) % 3).backward()
        optimizer.step()
    pairs = zip(before.parameters(), model.named_parameters(), strict=True)
    assert [name for old, (name, new) in pairs if torch.equal(old, new)] == []


@every
def test_a_seed_gives_the_same_weights(cls: type[nn.Module]) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(cls([1, 8, 8], 10).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
        if path.stem not in ("custom", "huggingface", "transformer")  # no model, and models of other inputs
    ],
    ids=lambda path: path.stem,
)
def test_the_options_of_lrflow(path: Path) -> None:
    root = {
        "data": {"facts": {"shape": [1, 8, 8], "outputs": 10, "loss": "cross_entropy"}},
        "model": OmegaConf.load(path),
    }
    config = OmegaConf.to_container(OmegaConf.create(root), resolve=True)["model"]
    cls = getattr(models, config.pop("_target_").removeprefix("lrflow.models."))
    assert config.pop("loss") == "cross_entropy"  # for whoever trains the model
    assert cls(**config)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (lambda: models.Logistic([], 0), ["model.shape", "model.outputs"]),
        (lambda: models.MLP([1, 0], True, widths=[], dropout=1.0), ["shape", "outputs", "widths", "dropout"]),
        (lambda: models.MLP("8x8", 2.5, widths=[1.5], dropout="no"), ["shape", "outputs", "widths", "dropout"]),
        (lambda: models.CNN([64], 10, widths=[0], dropout=-1), ["shape", "widths", "dropout"]),
        (lambda: models.ResNet([8, 8], 10, width=0, blocks=[2, 0]), ["shape", "width", "blocks"]),
        (lambda: models.ResNet(None, 10, blocks=3), ["shape", "blocks"]),
    ],
)
def test_everything_wrong_is_said_at_once(make: Callable[[], nn.Module], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert [problem.key.removeprefix("model.") for problem in caught.value.problems] == [
        key.removeprefix("model.") for key in keys
    ]

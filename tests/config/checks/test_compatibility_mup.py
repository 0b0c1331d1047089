"""What `layers=mup` needs of the rest of the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lrflow.config.checks.compatibility import table_of
from lrflow.config.composition.options import Catalogue
from lrflow.config.origins import read_yaml
from lrflow.config.targets import with_arguments
from lrflow.errors import ConfigError
from lrflow.optimizers.traits import traits_named

MUP = ["layers=mup", "layers.base={widths: [64, 64]}"]


@pytest.mark.parametrize(
    ("optimizer", "table"),
    [
        ({"_target_": "torch.optim.AdamW", "weight_decay": 0.1}, "adam"),
        ({"_target_": "torch.optim.Adam", "weight_decay": 0.0}, "adam"),
        ({"_target_": "torch.optim.Adam"}, "adam"),
        ({"_target_": "torch.optim.NAdam", "weight_decay": 0.1, "decoupled_weight_decay": True}, "adam"),
        ({"_target_": "pytorch_optimizer.Lion", "weight_decay": 0.1}, "adam"),
        ({"_target_": "torch.optim.SGD", "weight_decay": 0.1}, "sgd"),
    ],
)
def test_the_table_follows_from_the_optimizer(optimizer: dict[str, Any], table: str) -> None:
    assert table_of(optimizer) == table


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [
        ({"_target_": "torch.optim.LBFGS"}, "optimizer._target_"),
        ({"_target_": "torch.optim.Rprop"}, "optimizer._target_"),
        ({"_target_": "my_pkg.AdamW"}, "optimizer._target_"),
        ({"_target_": "torch.optim.Adam", "weight_decay": 0.1}, "optimizer.weight_decay"),
        ({"_target_": "torch.optim.RMSprop", "weight_decay": 0.1}, "optimizer.weight_decay"),
        (
            {"_target_": "pytorch_optimizer.Lion", "weight_decay": 0.1, "weight_decouple": False},
            "optimizer.weight_decay",
        ),
    ],
)
def test_an_optimizer_without_a_table_is_an_error(optimizer: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table_of(optimizer)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert table_of(optimizer, "sgd") == "sgd"  # the user may know


@pytest.mark.parametrize("name", sorted(Catalogue().options("optimizer")))
def test_every_option_is_supported_or_reported_as_unknown(name: str) -> None:
    """None of lrflow's own options is refused for its defaults."""
    optimizer = read_yaml(Catalogue().options("optimizer")[name].path)
    if traits_named(optimizer["_target_"]).mup:
        assert table_of(optimizer) in ("adam", "sgd")
    else:
        with pytest.raises(ConfigError, match=r"optimizer\._target_"):
            table_of(optimizer)


@pytest.mark.parametrize(
    ("overrides", "key", "told"),
    [
        (["layers=mup"], "layers.base", "must be given a value"),
        (["layers=mup", "layers.base={widht: [64]}"], "layers.base.widht", "did you mean layers.base.widths?"),
        ([*MUP, "layers.wider={dept: 3}"], "layers.wider.dept", "takes no dept"),
        (
            [*MUP, "layers.base._target_=lrflow.models.CNN"],
            "layers.base._target_",
            "the class is always that of the model",
        ),
        ([*MUP, "layers.optimiser=adam"], "layers.optimiser", "did you mean layers.optimizer?"),
        (
            [*MUP, "optimizer=muon", "optimizer.routes.muon._target_=torch.optim.SGD"],
            "optimizer.routes.muon",
            "to Muon",
        ),
        ([*MUP, "optimizer=lbfgs"], "optimizer._target_", "layers.optimizer=adam or layers.optimizer=sgd"),
    ],
)
def test_mistakes(problems_of: Callable, overrides: list[str], key: str, told: str) -> None:
    found = {problem.key: str(problem) for problem in problems_of(overrides)}
    assert told in found[key]


def test_arguments_of_the_model_are_checked() -> None:
    model = {"_target_": "A", "encoder": {"_target_": "B", "width": 64, "depth": 3}, "widths": [4, 4]}
    assert with_arguments(model, {"encoder": {"width": 8}, "widths": [2]}) == {
        "_target_": "A",
        "encoder": {"_target_": "B", "width": 8, "depth": 3},
        "widths": [2],
    }
    assert model["widths"] == [4, 4]

"""Routes and the rules that take them: options together, and what is said where they do not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lrflow.config import compose
from lrflow.errors import ConfigError

ONE = "layers.rules=[{name: a, select: matrix, route: muon}, {name: b, match: '*'}]"


def problems_of(*overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        compose(list(overrides))
    return {problem.key: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("optimizer", "layers", "schedule"),
    [("muon", "muon", "cosine"), ("airbench", "airbench", "airbench"), ("nanogpt", "nanogpt", "nanogpt")],
)
def test_an_optimizer_that_routes_takes_its_layers_along(optimizer: str, layers: str, schedule: str) -> None:
    config = compose([f"optimizer={optimizer}"])
    assert (config.choices["layers"], config.choices["schedule"]) == (layers, schedule)
    assert set(config.optimizer.routes) == {"muon"}
    assert "routes" not in config.optimizer.node()  # which no optimizer of torch's takes


def test_typed_values_override_the_routes() -> None:
    config = compose(["optimizer=airbench", "layers=muon", "schedule=rex"])
    assert (config.choices["layers"], config.choices["schedule"]) == ("muon", "rex")


def test_a_setting_of_a_route_can_be_overridden() -> None:
    config = compose(["optimizer=muon", "optimizer.routes.muon.lr=0.05", "optimizer.lr=1e-3"])
    assert config.optimizer.routes["muon"].lr == 0.05
    assert config.optimizer.routes["muon"].node()["_target_"] == "lrflow.optimizers.Muon"


def test_a_user_defined_route() -> None:
    own = ["optimizer.routes.muon._target_=torch.optim.SGD", "optimizer.routes.muon.lr=0.1"]
    assert compose(["layers=uniform", ONE, *own]).optimizer.routes["muon"].target == "torch.optim.SGD"


def test_an_unknown_route_is_an_error() -> None:
    told = problems_of("layers=uniform", ONE)
    assert list(told) == ["layers.rules[0].route"]
    assert "optimizer=muon adds one" in told["layers.rules[0].route"]
    told = problems_of("optimizer=muon", "layers=uniform", ONE.replace("route: muon", "route: moun"))
    assert list(told) == ["layers.rules[0].route"]
    assert "did you mean muon?" in told["layers.rules[0].route"]


def test_a_route_without_a_rule_is_an_error() -> None:
    told = problems_of("optimizer=muon", "layers=uniform")
    assert list(told) == ["optimizer.routes.muon"]
    assert "layers=muon" in told["optimizer.routes.muon"]
    assert compose(["optimizer=muon", "layers=uniform", "~optimizer.routes.muon"])


def test_a_main_optimizer_without_parameters_is_an_error() -> None:
    told = problems_of("optimizer=muon", "layers=uniform", "layers.rules=[{name: a, match: '*', route: muon}]")
    assert list(told) == ["optimizer"]


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("optimizer.routes.moun.lr=0.1", "optimizer.routes.moun", "did you mean optimizer.routes.muon?"),
        ("optimizer.routes.muon.lr=-1", "optimizer.routes.muon.lr", "a number above 0"),
        ("optimizer.routes.muon.momentun=0.9", "optimizer.routes.muon.momentun", "optimizer.routes.muon.momentum?"),
        ("optimizer.routes.muon.adjust_lr_fn=orginal", "optimizer.routes.muon.adjust_lr_fn", "did you mean original?"),
        ("optimizer.routes.muon.ns_steps=0", "optimizer.routes.muon.ns_steps", "a whole number above 0"),
        ("optimizer.routes.muon._target_=os.system", "optimizer.routes.muon._target_", "may not build this"),
        ("optimizer.routes=3", "optimizer.routes", "expected a mapping"),
        (
            "optimizer.routes.muon.routes={x: {_target_: torch.optim.SGD, lr: 0.1}}",
            "optimizer.routes.muon.routes",
            "cannot have routes",
        ),
    ],
)
def test_invalid_routes_are_errors(override: str, key: str, words: str) -> None:
    # Rules, whose routes are checked with the config; those of layers=muon wait for the model.
    told = problems_of("optimizer=muon", "layers=uniform", ONE, override)
    assert words in told[key]


def test_nesterov_of_a_route_is_checked_as_the_optimizers() -> None:
    route = "optimizer.routes.muon={_target_: torch.optim.SGD, lr: 0.1, nesterov: true}"
    assert "optimizer.routes.muon.nesterov" in problems_of("layers=uniform", ONE, route)


def test_a_route_of_a_frozen_rule_is_unused() -> None:
    rules = "layers.rules=[{name: a, match: 'stage1.*', freeze: true, route: muon}, {name: b, match: '*'}]"
    told = problems_of("optimizer=muon", "layers=uniform", rules)
    assert "optimizer.routes.muon" in told


def test_routes_are_checked_without_importing_torch() -> None:
    code = (
        "import sys; from lrflow.config import compose\n"
        "try: compose(['optimizer=muon', 'layers=uniform'])\n"
        "except Exception as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "optimizer.routes.muon: no rule" in found.stdout


def test_incompatible_settings_of_an_optimizer_apply_to_a_route() -> None:
    route = "optimizer.routes.muon={_target_: pytorch_optimizer.AdaHessian, lr: 0.1}"
    assert "trainer.compile" in problems_of("layers=uniform", ONE, route, "trainer.compile=true")
    route = route.replace("AdaHessian", "ScalableShampoo")
    assert "optimizer.routes.muon._target_" in problems_of("layers=uniform", ONE, route)
    assert "whole matrices" in problems_of("optimizer=muon", "trainer.strategy=fsdp")["trainer.strategy"]

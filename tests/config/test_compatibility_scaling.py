"""How the peak LR follows the batch: what the batch is made of, the factor, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lrflow.config import compose
from lrflow.config.compatibility import batch_scaling
from lrflow.errors import ConfigError
from lrflow.plan.batch_scaling import BatchScaling

LINEAR = ["scaling=linear", "scaling.reference=32"]


def test_no_scaling_by_default() -> None:
    assert batch_scaling(compose(["data.batch_size=4", "trainer=ddp"]), 8) is None


@pytest.mark.parametrize(
    ("overrides", "devices", "batch", "parts"),
    [
        (["data.batch_size=128"], None, 128, ""),
        (["data.batch_size=64", "trainer.accumulate_grad_batches=4"], None, 256, "64 x 4 accumulated"),
        (["data.batch_size=64", "trainer=ddp", "trainer.devices=2"], None, 128, "64 x 2 devices"),
        (["data.batch_size=64", "trainer.devices=[0,2,3]"], None, 192, "64 x 3 devices"),
        (["data.batch_size=8", "trainer=multi_node", "trainer.devices=4"], None, 64, "8 x 8 devices"),
        (["data.batch_size=16", "trainer.devices=auto"], 4, 64, "16 x 4 devices"),
        (
            ["data.batch_size=16", "trainer=ddp", "trainer.accumulate_grad_batches=2"],
            2,
            64,
            "16 x 2 devices x 2 accumulated",
        ),
        (["data.batch_size=16", "scaling.batch=77"], 2, 77, ""),
        (["~data.batch_size", "scaling.batch=77"], None, 77, ""),
    ],
)
def test_the_batch_of_an_optimizer_step(overrides: list[str], devices: int | None, batch: int, parts: str) -> None:
    found = batch_scaling(compose([*LINEAR, *overrides]), devices)
    assert found == BatchScaling("linear", batch, 32, parts)


@pytest.mark.parametrize(
    ("rule", "batch", "reference", "factor"),
    [("linear", 8192, 256, 32.0), ("linear", 64, 256, 0.25), ("sqrt", 1024, 256, 2.0), ("sqrt", 256, 1024, 0.5)],
)
def test_the_factor(rule: str, batch: int, reference: int, factor: float) -> None:
    assert BatchScaling(rule, batch, reference).factor == factor


def test_scaling_is_reported_in_one_line() -> None:
    scaling = BatchScaling("linear", 1024, 256, "256 x 2 devices x 2 accumulated")
    assert scaling.describe({"lr": 0.1, "betas": [0.9, 0.999], "eps": 1e-8}) == (
        "peak LR 0.1 x 4 = 0.4: linear scaling, batch 1024 (256 x 2 devices x 2 accumulated) over reference 256"
    )


def test_the_rule_for_adam_also_scales_other_settings() -> None:
    # Malladi et al., 2022, definition 3.1, at kappa = 4: beta1 0.9 -> 0.6, beta2 0.999 -> 0.996, eps halved.
    adam = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8}
    line, more = BatchScaling("sqrt", 1024, 256).describe(adam).splitlines()
    assert line == "peak LR 0.001 x 2 = 0.002: sqrt scaling, batch 1024 over reference 256"
    assert more.endswith("optimizer.betas=[0.6,0.996] optimizer.eps=5e-09")
    assert BatchScaling("sqrt", 16 * 256, 256).describe(adam).endswith("no betas for a batch this much larger")
    assert "\n" not in BatchScaling("sqrt", 1024, 256).describe({"lr": 0.1, "momentum": 0.9})


@pytest.mark.parametrize(
    ("overrides", "key", "told"),
    [
        (["scaling=linear"], "scaling.reference", "must be given a value"),
        (["scaling=linear", "scaling.reference=null"], "scaling.reference", "leaves the LR unchanged"),
        (["scaling=sqrt", "scaling.reference=0"], "scaling.reference", "above 0"),
        (["scaling=sqrt", "scaling.reference=1.5"], "scaling.reference", "whole number"),
        (["scaling.reference=256"], "scaling.reference", "add scaling=linear"),
        (["scaling.batch=256"], "scaling.batch", "has no effect with scaling=none"),
        (["scaling.rule=cubic"], "scaling.rule", "expected one of none, linear, sqrt"),
        ([*LINEAR, "~data.batch_size"], "scaling.batch", "scaling.batch=N"),
    ],
)
def test_mistakes(problems_of: Callable, overrides: list[str], key: str, told: str) -> None:
    (problem,) = problems_of(overrides)
    assert problem.key == key
    assert told in str(problem)


def test_an_unknown_number_of_devices() -> None:
    config = compose([*LINEAR, "trainer.devices=auto"])
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        batch_scaling(config)

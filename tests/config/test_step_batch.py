"""The batch of an optimizer step: how it is divided, and how the peak LR follows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.cli import main
from lrflow.config import compose, declared_horizon
from lrflow.config.checks.compatibility import check_combination
from lrflow.config.step_batch import batch_scaling
from lrflow.errors import ConfigError
from lrflow.plan.batch_scaling import BatchScaling, StepBatch

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


SIZES = st.tuples(st.integers(1, 400), st.integers(1, 70), st.integers(1, 9))


@given(SIZES)
def test_an_effective_batch_is_divided_exactly_or_the_nearest_that_can_be_is_named(numbers: tuple[int, ...]) -> None:
    size, per_device, devices = numbers

    def ways(size: int) -> list[tuple[int, int]]:
        """By definition: full batches of each device, or one smaller batch of each device."""
        full = [(per_device, count) for count in range(1, size + 1) if per_device * devices * count == size]
        return full or [(each, 1) for each in range(1, per_device + 1) if each * devices == size]

    divided = StepBatch.divided(size, per_device, devices)
    assert ([] if divided is None else [(divided.per_device, divided.accumulated)]) == ways(size)
    if divided is None:
        below = next((near for near in range(size, 0, -1) if ways(near)), None)
        above = next(near for near in range(size, 10**4) if ways(near))
        assert sorted(StepBatch.nearest_sizes(size, per_device, devices)) == [*([below] if below else []), above]
        batches = [each for each in range(1, per_device + 1) if StepBatch.divided(size, each, devices)]
        assert StepBatch.nearest_per_device(size, per_device, devices) == max(batches, default=None)


@pytest.mark.parametrize(
    ("overrides", "per_device", "accumulated"),
    [
        (["data.effective_batch_size=1024"], 64, 16),
        (["data.effective_batch_size=1024", "trainer=ddp", "trainer.devices=4"], 64, 4),
        (["data.effective_batch_size=1024", "trainer=multi_node", "trainer.devices=4"], 64, 2),
        (["data.effective_batch_size=128", "trainer.devices=[0,1,2,3]"], 32, 1),
        (["data.effective_batch_size=64"], 64, 1),
        (["data.effective_batch_size=24"], 24, 1),
        (["data.effective_batch_size=128", "trainer=cpu", "trainer.devices=auto"], 64, 2),
        (["trainer.accumulate_grad_batches=null"], 64, 1),
        # A run that is evaluated trains nothing, perhaps on other devices.
        (["data.effective_batch_size=100", "task=evaluate", "task.from=run.ckpt"], 64, 1),
    ],
)
def test_the_division_of_an_effective_batch(
    overrides: list[str], per_device: int, accumulated: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.ckpt").touch()
    config = compose(overrides)
    assert (config.data.batch_size, config.trainer.accumulate_grad_batches) == (per_device, accumulated)
    assert config.data.node()["batch_size"] == per_device
    assert "effective_batch_size" not in config.data.node()
    # What is saved is what was typed, so that a resumed run divides it anew.
    assert config.source.trainer.accumulate_grad_batches is None
    assert config.source.data.batch_size == 64


@pytest.mark.parametrize(
    ("overrides", "key", "hint"),
    [
        (["1000"], "data.effective_batch_size", "=1024 or 960, or data.batch_size=50"),
        (["30", "trainer.devices=4"], "data.effective_batch_size", "=28 or 32"),
        (["2", "trainer.devices=4"], "data.effective_batch_size", "=4"),
        (["2048"], "data.effective_batch_size", "=1280 or less"),
        (["0"], "data.effective_batch_size", "above 0"),
        (["128", "~data.batch_size"], "data.effective_batch_size", "set data.batch_size"),
        (["128", "trainer.accumulate_grad_batches=1"], "trainer.accumulate_grad_batches", "leave it out"),
        (["128", "optimizer=lbfgs"], "trainer.accumulate_grad_batches", "data.batch_size=128"),
    ],
)
def test_mistakes_with_an_effective_batch(problems_of: Callable, overrides: list[str], key: str, hint: str) -> None:
    (problem,) = problems_of([f"data.effective_batch_size={overrides[0]}", *overrides[1:]])
    assert problem.key == key
    assert hint in str(problem)


@given(st.sampled_from([(12, 6), (24, 4), (60, 5)]), st.integers(100, 1797 - 540))
@settings(max_examples=5, deadline=None)
def test_a_run_is_as_long_on_any_number_of_devices(sizes: tuple[int, int], left: int) -> None:
    effective, per_device = sizes
    given = [f"data.effective_batch_size={effective}", f"data.batch_size={per_device}", f"data.val_size={1437 - left}"]
    devices = [count for count in (1, 2, 3) if StepBatch.divided(effective, per_device, count)]
    lengths = {declared_horizon(compose([*given, "trainer=ddp", f"trainer.devices={count}"])) for count in devices}
    assert len(devices) > 1
    assert len(lengths) == 1


def test_scaling_and_the_plan_use_the_effective_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["data.effective_batch_size=1024", "trainer=ddp", "trainer.devices=4", "scaling=linear"]
    assert main(["task=plan", f"output={tmp_path}", *more, "scaling.reference=64", "name=of_four"]) == 0
    shown = capsys.readouterr().out
    assert "batch 1024 = 64 x 4 devices x 4 accumulated\npeak LR 0.003 x 16 = 0.048" in shown
    (plan,) = tmp_path.glob("*of_four/plan.json")
    content = json.loads(plan.read_text())
    assert content["batch"] == {"per_device": 64, "devices": 4, "accumulated": 4, "size": 1024}
    assert content["scaling"]["batch"] == 1024


def test_an_effective_batch_needs_the_devices_that_it_was_divided_among() -> None:
    config = compose(["data.effective_batch_size=256", "trainer=ddp", "trainer.devices=2"])
    assert check_combination(config, 2) == []
    (problem,) = check_combination(config, 4)
    assert problem.key == "data.effective_batch_size"
    assert "batch 512 = 64 x 4 devices x 2 accumulated" in str(problem)

"""fast=true: durations that were meant for the whole run shrink with it, and one line says so."""

from __future__ import annotations

import numpy as np
import pytest
from omegaconf import OmegaConf

from lrflow.config import compose
from lrflow.config.length import shorten
from lrflow.errors import ConfigError
from lrflow.schedules import Duration, DurationLike, Phase, Shape

# The default run has 400 steps, 20 epochs; its smoke run 8.
TABLE = {
    "in steps": (["schedule.warmup=40"], "warmup", "10%"),
    "in epochs": (["schedule.warmup=2 epochs"], "warmup", "10%"),
    "the end": (["schedule=constant", "schedule.warmup=0%", "schedule.cooldown=100"], "cooldown", "25%"),
    "what a shape needs": (["schedule=noam"], "warmup", "1 step"),
    "a share": (["schedule.warmup=10%"], "warmup", "10%"),
    "what fits": (["schedule.warmup=2"], "warmup", 2),
}


@pytest.mark.parametrize(("overrides", "key", "value"), TABLE.values(), ids=TABLE)
def test_shortened_durations(overrides: list[str], key: str, value: object) -> None:
    config = compose([*overrides, "fast=true"])
    given = config.schedule.node()[key]
    assert str(given) in (str(value), f"{value} steps")
    before = next((word.partition("=")[2] for word in overrides if word.startswith(f"schedule.{key}=")), "5%")
    assert config.remarks == ([] if before == str(value) else [
        f"fast=true: the run is shorter, and so are schedule.{key} {before} -> {value}"
    ])  # fmt: skip


def test_without_fast_durations_are_unchanged() -> None:
    assert str(compose(["schedule.warmup=40"]).schedule.node()["warmup"]) == "40 steps"
    with pytest.raises(ConfigError, match=r"schedule\.warmup"):
        compose(["schedule.warmup=500"])


def test_of_batch_sizes_the_first_and_the_last_are_tried() -> None:
    batches = [[0, 64], ["50 steps", 128], ["15 epochs", 256], ["95%", 512]]
    config = compose([f"schedule.batch={batches}".replace("'", ""), "fast=true"])
    assert [(start.value, size) for start, size in config.schedule.batches] == [(0, 64), (0.5, 512)]
    assert config.remarks == ["fast=true: the run is shorter, and so are schedule.batch -> [[0, 64], [50%, 512]]"]
    assert compose(["schedule.batch=[[0, 64], [50%, 512]]", "fast=true"]).remarks == []


def test_durations_of_layers_and_of_settings_that_move_shrink_too() -> None:
    rules = "layers.rules=[{name: a, match: 'head.*', unfreeze: 100 steps}, {name: b, match: '*'}]"
    moved = "schedule.also={momentum: {warmup: 40 steps, high: 0.9}}"
    config = compose([rules, moved, "optimizer=momentum", "fast=true"])
    assert str(config.layers.rules[0].unfreeze) == "25%"
    assert str(config.schedule.also["momentum"].warmup) == "10%"
    gradual = compose(["layers=gradual_unfreezing", "layers.every=100", "fast=true"])
    assert str(gradual.layers.plain()["every"]) == "25%"


def test_an_interval_is_a_step_or_more() -> None:
    """As in published recipes that lower the LR after each of thousands of epochs."""
    content = OmegaConf.create("schedule: {warmup: 1 epoch, shape: {_target_: lrflow.schedules.Step, every: 1 epoch}}")
    line = shorten(content, compose(["trainer.max_epochs=3000"]))
    assert (content.schedule.warmup, content.schedule.shape.every) == ("0.03333%", "1 step")
    assert line is not None
    assert line.endswith("schedule.warmup 1 epoch -> 0.03333%, schedule.shape.every 1 epoch -> 1 step")


def test_durations_inside_a_shape_shrink_too() -> None:
    within = "{_target_: lrflow.schedules.Schedule, shape: {_target_: lrflow.schedules.Cosine}, warmup: 40 steps}"
    late = f"{{_target_: lrflow.schedules.PartOfRun, start: 1, over: 200 steps, schedule: {within}}}"
    product = (
        f"schedule.shape={{_target_: lrflow.schedules.Product, of: [{{_target_: lrflow.schedules.Linear}}, {late}]}}"
    )
    part = compose(["schedule=constant", product, "fast=true"]).schedule.node()["shape"]["of"][1]
    assert (str(part["over"]), str(part["schedule"]["warmup"])) == ("50%", "10%")
    piece = "{duration: 40 steps, shape: {_target_: lrflow.schedules.Linear}}"
    pieces = f"schedule.shape.pieces=[{piece}, {{shape: {{_target_: lrflow.schedules.Constant}}}}]"
    found = compose(["schedule=piecewise", pieces, "fast=true"]).schedule.node()["shape"]["pieces"]
    assert str(found[0]["duration"]) == "10%"


def test_a_guessed_fraction_is_reported_as_a_guess() -> None:
    config = compose(["data.facts.examples=null", "schedule.warmup=40", "fast=true"])
    (line,) = config.remarks
    assert "schedule.warmup 40 -> 10% (a guess: the length of the whole run is unknown" in line


def test_an_unchanged_fraction_is_not_reported() -> None:
    content = OmegaConf.create({"schedule": {"warmup": "5 %", "cooldown": 40}})
    line = shorten(content, compose(["trainer.max_epochs=20"]))
    assert line == "fast=true: the run is shorter, and so are schedule.cooldown 40 -> 10%"
    assert content.schedule.warmup == "5 %"


class Notched(Shape):
    """A shape with text that looks like a duration, and one that is a duration."""

    def __init__(self, version: str = "2", every: DurationLike = "1 epoch") -> None:
        self.version, self.every = version, Duration.parse(every)

    def __call__(self, step: np.ndarray, phase: Phase) -> np.ndarray:
        return np.ones(len(step))


def test_text_arguments_of_a_shape_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRFLOW_TRUST", Notched.__module__)
    shape = f"{{_target_: {Notched.__module__}.Notched, version: '200', every: 100}}"
    content = OmegaConf.create(f"schedule: {{shape: {shape}}}")
    line = shorten(content, compose(["trainer.max_epochs=20"]))
    assert dict(content.schedule.shape) | {"_target_": ""} == {"_target_": "", "version": "200", "every": "25%"}
    assert line == "fast=true: the run is shorter, and so are schedule.shape.every 100 -> 25%"

"""fast=true: durations that were meant for the whole run shrink with it, and one line says so."""

from __future__ import annotations

import logging

import pytest

from lrflow.config import compose
from lrflow.errors import ConfigError

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
def test_what_becomes_of_a_duration(
    overrides: list[str], key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = compose([*overrides, "fast=true"])
    given = config.schedule.node()[key]
    assert str(given) in (str(value), f"{value} steps")
    told = [record.getMessage() for record in caplog.records if "fast=true" in record.getMessage()]
    before = next((word.partition("=")[2] for word in overrides if word.startswith(f"schedule.{key}=")), "5%")
    assert told == ([] if before == str(value) else [
        f"fast=true: the run is shorter, and so are schedule.{key} {before} -> {value}"
    ])  # fmt: skip


def test_without_fast_nothing_is_written() -> None:
    assert str(compose(["schedule.warmup=40"]).schedule.node()["warmup"]) == "40 steps"
    with pytest.raises(ConfigError, match=r"schedule\.warmup"):
        compose(["schedule.warmup=500"])


def test_durations_of_layers_and_of_settings_that_move_shrink_too(caplog: pytest.LogCaptureFixture) -> None:
    rules = "layers.rules=[{name: a, match: 'head.*', unfreeze: 100 steps}, {name: b, match: '*'}]"
    moved = "schedule.also={momentum: {warmup: 40 steps, high: 0.9}}"
    config = compose([rules, moved, "optimizer=momentum", "fast=true"])
    assert str(config.layers.rules[0].unfreeze) == "25%"
    assert str(config.schedule.also["momentum"].warmup) == "10%"
    gradual = compose(["layers=gradual_unfreezing", "layers.every=100", "fast=true"])
    assert str(gradual.layers.plain()["every"]) == "25%"

"""Lines on settings that have no effect in a task."""

from __future__ import annotations

from lrflow.config import compose
from lrflow.config.checks.warnings import unused_by_search, warnings_before_start
from lrflow.schedules import Horizon


def test_a_search_for_the_lr_names_what_it_does_not_use() -> None:
    assert unused_by_search(compose(["task=find"])) is None
    line = unused_by_search(compose(["task=find", "callbacks=[early_stopping,timer]", "trainer.max_time=1 hour"]))
    assert line is not None
    assert line.startswith("task=find does not use callbacks.early_stopping, callbacks.timer, trainer.max_time:")


def test_actions_on_the_lr_that_would_come_to_nothing_are_named() -> None:
    words = {
        "health.on_plateau=kick health.kick.over=100%": "health.kick.over is 100%, but the run has only 100 steps",
        "health=recover health.recover.rewarm=200": "health.recover.rewarm is 200 steps",
        "health.on_too_low=raise optimizer=prodigy": "Prodigy estimates the LR itself",
        "health.kick.over=100% health.on_too_low=raise": "",
    }
    for given, expected in words.items():
        lines = [line for line in warnings_before_start(compose(given.split()), Horizon(100)) if "health" in line]
        assert len(lines) == bool(expected)
        assert expected in "".join(lines)

"""`schedule.also` from the command line: what is wrong is told with the config, and what is right comes to the plan."""

from __future__ import annotations

from typing import Any

import pytest

from lrflow.config import compose
from lrflow.config.checks.keys import settings_of
from lrflow.errors import ConfigError
from lrflow.tasks.plan import compile_plan

COSINE = "{_target_: lrflow.schedules.Cosine}"
OWN = "{_target_: lrflow.schedules.Schedule, shape: {_target_: lrflow.schedules.Constant}, also: {momentum: {low: 2}}}"


def told(*overrides: str) -> dict[str, tuple[Any, str | None]]:
    with pytest.raises(ConfigError) as caught:
        compose(list(overrides))
    return {problem.key: (problem.message, problem.hint) for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["schedule.also.momentum.lw=0.8"], "schedule.also.momentum.lw", "did you mean schedule.also.momentum.low?"),
        (["schedule.also.weight_dekay.low=0"], "schedule.also.weight_dekay", "did you mean weight_decay?"),
        (["schedule.also.momentum.low=0.8", "optimizer=adagrad"], "schedule.also.momentum", "no such setting"),
        (["schedule.also.momentum.low=0.8", "optimizer=sgd", "optimizer.momentum=0"], "schedule.also.momentum", "off"),
        (["schedule.also.momentum.low=0.95"], "schedule.also.momentum.low", "is above 0.9, the optimizer's own"),
        (["schedule.also.momentum.high=1"], "schedule.also.momentum.high", "from 0 and below 1"),
        (["schedule.also.lr.low=0"], "schedule.also.lr", "the schedule itself sets the LR"),
        (["schedule.also.momentum.warmup=9000"], "schedule.also.momentum.warmup", "the run has only"),
        (["schedule.also.momentum.shape._target_=lrflow.schedules.Cosin"], "schedule.also.momentum.shape._target_", ""),
        (["schedule.also.momentum.inverse=1"], "schedule.also.momentum.inverse", "true or false"),
        (
            [f"layers.rules=[{{name: all, match: '*', schedule: {OWN}}}]"],
            "layers.rules[0].schedule.also.momentum.low",
            "below 1",
        ),
    ],
)
def test_mistakes_in_also_are_errors(overrides: list[str], key: str, words: str) -> None:
    found = told(*overrides)
    assert list(found) == [key]
    assert words in f"{found[key][0]}; {found[key][1]}"


def test_a_misspelt_setting_is_reported_with_its_value_and_the_nearest_name() -> None:
    """Of AdamW too, whose beta1 is what momentum moves."""
    with pytest.raises(ConfigError) as caught:
        compose(["optimizer=adamw", "schedule.also={momentun: {low: 0.8}}"])
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("schedule.also.momentun", {"low": 0.8})
    assert problem.hint == "did you mean momentum?"


def plan_of(*overrides: str) -> Any:
    return compile_plan(compose(["task=plan", "horizon.steps=100", *overrides]))


@pytest.mark.parametrize(
    ("optimizer", "setting"),
    [
        ("optimizer=adamw", "beta1"),
        ("optimizer=momentum", "momentum"),
        ("optimizer=adagrad", None),
        ("optimizer=sgd", None),
    ],
)
def test_one_cycle_cycles_momentum_if_the_optimizer_has_it(optimizer: str, setting: str | None) -> None:
    plan = plan_of("schedule=one_cycle", optimizer)
    assert {moved.setting for moved, _ in plan.scheduled_settings} == ({setting} if setting else set())
    if setting:
        assert plan.setting("momentum", [0, 30, 100])[:, -1].tolist() == pytest.approx([0.95, 0.85, 0.95])


def test_the_momentum_cycle_follows_the_shape_of_the_lr() -> None:
    plan = plan_of("schedule=one_cycle", "schedule.warmup=10%", "schedule.cooldown=20%", "schedule.shape.rise=40%")
    assert plan.setting("momentum", [0, 10, 50])[:, -1].tolist() == pytest.approx([0.95, 0.95, 0.85])
    assert plan.lr(50)[-1] == plan.trainable[-1].lr


@pytest.mark.parametrize("off", ["schedule.also=null", "schedule.also.momentum=null"])
def test_a_scheduled_setting_can_be_removed(off: str) -> None:
    assert plan_of("schedule=one_cycle", off).scheduled_settings == ()


def test_weight_decay_from_the_command_line() -> None:
    plan = plan_of(f"schedule.also={{weight_decay: {{shape: {COSINE}, low: 0.04, high: 0.4, inverse: true}}}}")
    assert plan.setting("weight_decay", [0, 100])[:, -1].tolist() == pytest.approx([0.04, 0.4])
    assert [group.name for group in plan.groups if group.also] == ["decay"]


def test_configured_settings_override_defaults() -> None:
    settings = settings_of(compose(["optimizer=momentum", "optimizer.momentum=0.8"]).optimizer)
    assert (settings["momentum"], settings["maximize"], settings["routes"]) == (0.8, False, {})

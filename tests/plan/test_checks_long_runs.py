"""Runs of more steps than are checked one by one, up to the most that a run may have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lrflow.plan import Plan, checks
from lrflow.plan.values import PlanGroup
from lrflow.schedules import (
    Constant,
    Cosine,
    Curve,
    Cyclical,
    Exponential,
    Horizon,
    MultiStep,
    OneCycle,
    Schedule,
    Shape,
    Step,
    WarmRestarts,
)
from lrflow.schedules.curve import MOST_CHANGES, sampled
from lrflow.schedules.time import MOST_STEPS, Floats, Phase, TooLongError


@dataclass(frozen=True)
class Spike(Shape):
    """A shape with a jump that it does not declare, at a third of the phase."""

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        return np.where(phase.progress(step) < 1 / 3, 1.0, 0.5)


SCHEDULES: dict[str, Curve] = {
    "cosine": Schedule(Cosine(), warmup="5%"),
    "cosine with a floor": Schedule(Cosine(), warmup=1000, floor=0.1),
    "wsd": Schedule(Constant(), warmup=1, cooldown="20%"),
    "multistep": Schedule(MultiStep(0.1, ["30%", "60%", "61%"])),
    "step": Schedule(Step(0.5, "10%"), warmup="1%"),
    "exponential": Schedule(Exponential(0.9, "1%", staircase=True)),
    "cyclical": Schedule(Cyclical("7%", gamma=0.9)),
    "one cycle": Schedule(OneCycle("23%")),
    "restarts": Schedule(WarmRestarts("3%", 1.5)),
    "held": Schedule(Cosine(), hold="1%"),
}


def plan_of(schedule: Curve, steps: int) -> Plan:
    return Plan((PlanGroup("all", 0.1, 1.0, None, schedule, 1, 10),), Horizon(steps))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_sample_of_the_steps_shows_what_every_step_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(SCHEDULES[name], 200_000)
    every = checks.check(plan)
    monkeypatch.setattr(checks, "WALKED", 1000)
    monkeypatch.setattr(checks, "sampled", lambda steps: sampled(steps, 2000))
    some = checks.check(plan)
    assert [(one.name, one.ok) for one in some] == [(one.name, one.ok) for one in every]
    assert some[0].detail == every[0].detail  # the step of the peak


@pytest.mark.parametrize("steps", [10**10, MOST_STEPS])
def test_the_longest_runs_are_checked_at_a_sample_of_their_steps(steps: int) -> None:
    found = checks.check(plan_of(SCHEDULES["cosine"], steps))
    assert all(one.ok for one in found)
    assert found[0].detail == f"at step {steps // 20:,}"
    (jumps,) = (one for one in found if one.name == "no undeclared jump")
    assert ", among 1,04" in jumps.detail


@pytest.mark.parametrize("steps", [10**7, 10**10])
def test_an_undeclared_jump_of_a_long_run_is_found_at_its_step(steps: int) -> None:
    (jump,) = (one for one in checks.check(plan_of(Schedule(Spike()), steps)) if one.name == "no undeclared jump")
    assert not jump.ok
    assert f"from 100% to 50% of the peak at step {-(-steps // 3):,}" in jump.detail


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(Step(0.5, 1)),
        Schedule(Exponential(0.9, 1, staircase=True)),
        Schedule(WarmRestarts(1)),
        Schedule(Cosine(), hold=2),
    ],
    ids=repr,
)
def test_more_changes_than_memory_holds_are_a_problem(schedule: Schedule) -> None:
    horizon = Horizon(10**10)
    (problem,) = schedule.check(horizon)
    assert f"of which {MOST_CHANGES:,} are possible" in problem.message
    assert len(schedule.jumps(horizon)) <= MOST_CHANGES + 2


def test_a_run_has_at_most_so_many_steps() -> None:
    Horizon(MOST_STEPS)
    with pytest.raises(TooLongError, match="1,000,000,000,000"):
        Horizon(MOST_STEPS + 1)

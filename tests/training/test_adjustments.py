"""Adjustments of the LR: their shape, their bounds, and what becomes of them in a cooldown, a rollback and a resume."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from lrflow.layers import Group
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Cosine, Cyclical, Horizon, Schedule, Shape
from lrflow.training.adjustments import Adjustment, Adjustments, has_adjusted
from lrflow.training.branches import Branch

STEPS = np.arange(100)


def planned(shape: Shape | None = None) -> Plan:
    parameter = torch.nn.Parameter(torch.zeros(1))
    groups = [Group("a", (("a", parameter),), lr=0.1, scale=1.0), Group("b", (("b", parameter),), lr=0.01, scale=0.1)]
    return Plan.compile(groups, Schedule(shape or Cosine()), Horizon(100))


def ran(plan: Plan, *made: Adjustment, branches: tuple[Branch, ...] = ()) -> tuple[Adjustments, PlanScheduler]:
    """The callback of a run that has begun, and its scheduler."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": one.lr, "name": one.name} for one in plan.groups])
    scheduler = PlanScheduler(optimizer, plan)
    callback = Adjustments(plan, branches, report=lambda line: None)
    for one in made:
        callback.add(one)
    trainer: Any = SimpleNamespace(lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)])
    callback.on_train_start(trainer, torch.nn.Module())  # type: ignore[arg-type]
    return callback, scheduler


@given(some.integers(0, 80), some.floats(1.01, 50), some.integers(0, 15), some.integers(1, 60) | some.none())
def test_a_factor_rises_to_its_height_and_falls_back(step: int, factor: float, rewarm: int, over: int | None) -> None:
    until = None if over is None else step + rewarm + over
    found = Adjustment(step, "kick", "plateau", factor, rewarm, until)(STEPS)
    assert (found[:step] == 1).all()
    assert (np.diff(found[: step + rewarm + 1]) >= 0).all()
    assert found.max() <= factor * (1 + 1e-12)
    assert found.min() >= 1
    if step + rewarm < 100:
        assert found[step + rewarm] == pytest.approx(factor)
    if until is None:
        assert found[step + rewarm :] == pytest.approx(factor)
    else:
        assert (np.diff(found[step + rewarm :]) <= 0).all()
        assert found[until:] == pytest.approx(1)


@pytest.mark.parametrize("shape", [Cosine(), Cyclical(cycle="40%")], ids=["decays", "rises again"])
def test_a_restart_never_exceeds_the_planned_peak_and_ends_on_the_plan(shape: Shape) -> None:
    plan = planned(shape)
    share = float((plan.lr(65) / [0.1, 0.01]).max())
    restart = Adjustment(60, "restart", "plateau", 1 / share, 5, 100, peak=1.0)
    callback, _ = ran(plan, restart)
    rates = plan.lr(STEPS) * callback.factor(STEPS)[:, None]
    assert (rates <= np.array([0.1, 0.01]) * (1 + 1e-9)).all()
    assert rates[65] == pytest.approx([0.1, 0.01], rel=0.05)
    assert rates[99] == pytest.approx(plan.lr(99), rel=0.2, abs=1e-4)
    assert (callback.factor(STEPS) >= 1).all()


def test_adjustments_multiply_the_plan_and_stay_as_they_are_in_a_cooldown() -> None:
    plan = planned()
    made = [Adjustment(20, "raise", "too_low", 3.0, 4), Adjustment(50, "kick", "plateau", 2.0, 10, 70)]
    callback, scheduler = ran(plan, *made)
    for step in (0, 19, 30, 60, 99):
        scheduler.step(step)
        assert scheduler.get_lr() == pytest.approx(plan.lr(step) * callback.factor(np.array([step]))[0])
    assert callback.factor(np.array([60]))[0] == pytest.approx(6)
    scheduler.step(60)
    callback.follow(plan)
    resumed, _ = ran(plan, *made, branches=(Branch(60, Horizon(200), "decay_now", "a finding"),))
    for one in (callback, resumed):
        assert one.factor(np.array([59, 60, 75, 99]))[1:] == pytest.approx([6, 6, 6])


def test_a_rollback_takes_adjustments_back_and_keeps_their_record() -> None:
    callback, _ = ran(planned())
    before = callback.state_dict()
    callback.add(Adjustment(20, "raise", "too_low", 3.0, 4))
    after = callback.state_dict()
    callback.load_state_dict(before)  # of the snapshot
    assert (callback.active, len(callback.facts["adjustments"])) == ([], 1)
    assert not has_adjusted({"callbacks": {callback.state_key: callback.state_dict()}})
    resumed, _ = ran(planned())
    resumed.load_state_dict(after)
    assert [one.step for one in resumed.active] == [20]
    assert resumed.facts == callback.facts
    assert has_adjusted({"callbacks": {resumed.state_key: resumed.state_dict()}})

"""What rollbacks come to by the end of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.layers import Group
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Constant, Horizon, Schedule
from lrflow.training.recovery import KeptCut, Recovery, describe_recovery, factor_of, left_out
from lrflow.training.rollback import Rollback


def back(to: int, *skipped: int) -> Recovery:
    return Recovery(to + 3, to + 3, to, 1.0, 0, "a test", list(skipped))


@pytest.mark.parametrize(
    ("recoveries", "steps"),
    [
        ([], set()),
        ([back(10, 13, 29), back(50)], {13, 29}),
        ([back(10, 13, 29), back(20, 29, 40)], {13, 29, 40}),
        ([back(10, 13, 29), back(20, 31)], {13, 31}),  # step 29 was repeated, and trained on
        ([back(10, 13, 29), back(20, 31), back(0)], set()),
    ],
)
def test_steps_that_a_later_rollback_repeats_are_left_out_only_then(
    recoveries: list[Recovery], steps: set[int]
) -> None:
    assert left_out(recoveries) == steps


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (None, None),
        ({"rollbacks": 0, "left_out": 0}, None),
        ({"rollbacks": 2, "left_out": 0}, "health: rolled back 2 times"),
        ({"rollbacks": 1, "left_out": 20}, "health: rolled back 1 time, batches of 20 of 4,000 steps left out"),
    ],
)
def test_the_end_of_a_run_has_a_line_about_it(record: dict[str, int] | None, line: str | None) -> None:
    assert describe_recovery(record, 4000) == line


def test_a_run_that_rolls_back_no_more_keeps_the_lr_of_those_before() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    plan = Plan.compile([Group("a", (("a", parameter),), lr=0.1, scale=1.0)], Schedule(Constant()), Horizon(100))
    scheduler = PlanScheduler(torch.optim.SGD([{"params": [parameter], "lr": 0.1, "name": "a"}]), plan)
    before: Any = Rollback(SimpleNamespace(times=3, state_dict=dict), 5)
    before.recoveries = [Recovery(33, 33, 30, 0.3, 4, "a test", [31])]
    kept, state = KeptCut(), before.state_dict()
    kept.load_state_dict(state)
    trainer: Any = SimpleNamespace(lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)])
    kept.on_train_start(trainer, torch.nn.Module())  # type: ignore[arg-type]
    for step in (31, 40, 99):
        scheduler.step(step)
        (expected,) = 0.1 * factor_of(before.recoveries, np.array([step]))
        assert scheduler.get_lr() == [pytest.approx(expected)]
    assert expected == pytest.approx(0.03)
    assert kept.state_dict() == {**state, "snapshots": []}
    assert kept.facts["recovery"] == {"rollbacks": 1, "left_out": 1}
    assert kept.state_key == before.state_key

"""Plans with groups that are frozen at first: their values, tables and checks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console
from torch import nn

from lrflow.layers import GradualUnfreezing, Rule, resolve
from lrflow.plan import Plan
from lrflow.plan.table import landmarks
from lrflow.schedules import Constant, Cosine, Curve, Horizon, MultiStep, Schedule, Unfreezing

RUN = Horizon(200, 50)
COSINE = Schedule(Cosine(), warmup=10, floor=0.1)


def printed(plan: Plan, width: int) -> str:
    console = Console(width=width, record=True, force_terminal=False)
    console.print(plan.table())
    return console.export_text()


@pytest.fixture
def late(group: Callable) -> Callable[..., Plan]:
    """A plan of two groups: the head, and a body that is unfrozen later."""

    def make(schedule: Curve, at: int | str, warmup: int | str = 0) -> Plan:
        body = group("body", 0.01, Unfreezing(schedule, at, warmup))
        return Plan((group("head", 0.1, schedule), body), RUN)

    return make


def test_the_lr_is_zero_until_then_and_the_schedules_from_there_on(late: Callable) -> None:
    plan = late(COSINE, "1 epoch")
    rates = plan.lr(np.arange(200))
    assert not rates[:50, 1].any()
    assert rates[50:, 1] == pytest.approx(rates[50:, 0] / 10)
    assert plan.first_steps == {"head": 0, "body": 50}


@pytest.mark.parametrize(("at", "warmup"), [(1, 0), ("1 epoch", 10), ("50%", 0), (199, 0), (150, 49)])
@pytest.mark.parametrize(
    "schedule",
    [COSINE, Schedule(Constant(), cooldown=20), Schedule(MultiStep(0.1, [30, 60]), floor=0.05), Schedule(Cosine())],
)
def test_its_checks_hold(late: Callable, schedule: Curve, at: int | str, warmup: int) -> None:
    checks = {check.name: check for check in late(schedule, at, warmup).check()}
    assert [name for name, check in checks.items() if not check.ok] == []
    assert "frozen until step" in checks["peak reached"].detail
    assert "declared jump" in checks["no undeclared jump"].detail


def test_a_schedule_that_never_reaches_its_peak_fails(late: Callable) -> None:
    checks = {check.name: check for check in late(Schedule(Constant(), warmup=300), 20).check()}
    assert not checks["peak reached"].ok
    assert "body: the highest is 66.45%" in checks["peak reached"].detail


def test_a_run_whose_first_steps_train_nothing_fails_a_check(group: Callable) -> None:
    plan = Plan(tuple(group(name, 0.1, Unfreezing(COSINE, at)) for name, at in (("a", 5), ("b", 9))), RUN)
    assert [(check.name, check.detail) for check in plan.check() if not check.ok] == [
        ("every group moves", "none moves before step 5")
    ]


def test_a_group_that_is_unfrozen_after_the_end_never_moves(late: Callable) -> None:
    failed = {check.name: check.detail for check in late(COSINE, 200).check() if not check.ok}
    assert failed["every group moves"] == "never moved: body"


def test_landmarks_name_the_groups_that_are_unfrozen(late: Callable) -> None:
    assert landmarks(late(COSINE, 60, 20)) == {
        0: "start",
        10: "warmup ends",
        50: "25%",
        60: "unfreezes: body",
        80: "warmup ends",
        100: "50%",
        150: "75%",
        199: "last step",
    }


def gradual(every: str = "20 steps") -> Plan:
    model = nn.ModuleDict({f"layer{i}": nn.Linear(2, 2) for i in range(6)})
    return Plan.compile(resolve(model, GradualUnfreezing(every).rules(model), lr=0.1), COSINE, RUN)


def test_a_layers_parts_are_named_once() -> None:
    marks = landmarks(gradual())
    assert [(step, why) for step, why in marks.items() if "unfreezes" in why] == [
        (20 * (5 - i), f"unfreezes: layer{i}") for i in range(4, -1, -1)
    ]


@pytest.mark.parametrize("width", [72, 80, 100, 200])
def test_the_table_shows_depth_scale_and_start_of_every_layer(width: int) -> None:
    text = printed(gradual(), width)
    lines = [line.split() for line in text.splitlines()]
    for depth in range(6):
        (row,) = [line for line in lines if line[:2] == [f"layer{depth}", str(depth)]]
        assert f"{2.6 ** (depth - 5):.3g}x" in row
        assert row[-1] == str(20 * (5 - depth))
    for step in range(0, 120, 20):
        assert any(str(step) in line for line in lines), step
    assert text.count("frozen for") == 0  # five schedules that differ only in their start share a description
    assert max(map(len, text.splitlines())) <= width


def test_a_narrow_table_leaves_no_landmark_out() -> None:
    text = printed(gradual(), 70)
    assert text.count("unfreezes:") == 5
    assert [text.count(f"layer{i}/no_decay, layer{i}") > 1 for i in range(6)] == [True] * 6


def test_few_schedules_are_described(late: Callable) -> None:
    text = printed(late(COSINE, "1 epoch", "5%"), 120)
    assert "frozen for 1 epoch, warmup 5%, then cosine, warmup 10 steps, floor 0.1 (body)" in text


def test_depth_is_saved_but_not_in_the_fingerprint() -> None:
    plan = gradual()
    again = Plan.from_dict(plan.to_dict())
    assert again == plan
    assert [group.depth for group in again.groups] == [i for i in range(6) for _ in range(2)]
    model = nn.ModuleDict({f"layer{i}": nn.Linear(2, 2) for i in range(6)})
    rules = [
        Rule(rule.name, parameters=rule.parameters, lr=rule.lr, weight_decay=rule.weight_decay, unfreeze=rule.unfreeze)
        for rule in GradualUnfreezing("20 steps").rules(model)
    ]
    plain = Plan.compile(resolve(model, rules, lr=0.1), COSINE, RUN)
    assert plain.fingerprint == plan.fingerprint
    assert plain.diff(plan).same


def test_it_is_drawn(late: Callable, tmp_path: object) -> None:
    from lrflow.plan.figure import draw

    figure = draw(late(COSINE, 60, 20))
    assert figure.axes[0].get_title(loc="left").startswith("cosine, warmup 10 steps, floor 0.1\n")

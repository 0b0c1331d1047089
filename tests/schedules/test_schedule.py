"""Schedules as a table (schedule -> steps -> multipliers), their arguments, and what they say of a horizon.

The expected values are worked out by hand for a run of 100 steps, 20 an epoch.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.schedules import (
    Constant,
    Cosine,
    Cyclical,
    Duration,
    Exponential,
    Horizon,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    OneCycle,
    Piecewise,
    Polynomial,
    Rex,
    Schedule,
    Step,
    Tabulated,
    Tanh,
    WarmRestarts,
)

RUN = Horizon(100, 20)
HALF = math.sqrt(0.5)

TABLE: list[tuple[Schedule, dict[float, float]]] = [
    # Shapes alone; past the end the last value is held.
    (Schedule(Constant()), {0: 1, 50: 1, 99: 1, 100: 1, 500: 1}),
    (Schedule(Linear()), {0: 1, 25: 0.75, 50: 0.5, 99: 0.01, 100: 0, 101: 0, 500: 0}),
    (Schedule(Cosine()), {0: 1, 25: (1 + HALF) / 2, 50: 0.5, 75: (1 - HALF) / 2, 100: 0, 150: 0, 200: 0}),
    (Schedule(Polynomial(2)), {0: 1, 50: 0.25, 90: 0.01, 100: 0, 110: 0}),
    (Schedule(Polynomial(0.5)), {0: 1, 75: 0.5, 100: 0}),
    (Schedule(Cosine(k=2)), {0: 1, 50: (1 + HALF) / 2, 100: 0, 110: 0}),  # p^2 is a quarter half-way
    (Schedule(Polynomial(1, k=2)), {0: 1, 50: 0.75, 90: 0.19, 100: 0}),
    (Schedule(Polynomial(2, k=0.5)), {0: 1, 25: 0.25, 81: 0.01, 100: 0}),
    (Schedule(Rex()), {0: 1, 50: 2 / 3, 80: 1 / 3, 100: 0, 110: 0}),
    (Schedule(Tanh(-1, 1)), {0: 1, 50: 0.5 + 0.5 * math.exp(-2), 100: math.exp(-2), 110: math.exp(-2)}),
    (Schedule(InverseTime(1, 1, "1 epoch")), {0: 1, 20: 1 / 2, 40: 1 / 3, 100: 1 / 6, 110: 1 / 6}),
    (Schedule(InverseTime(0.03, 0.5, 1)), {0: 1, 25: 1 / math.sqrt(1.75), 100: 0.5}),
    (Schedule(InverseSqrt(25)), {0: 1, 25: HALF, 75: 0.5, 100: 1 / math.sqrt(5), 110: 1 / math.sqrt(5)}),
    (Schedule(InverseSqrt(), warmup=25, warmup_start=0), {0: 0, 5: 0.2, 25: 1, 50: HALF, 100: 0.5}),  # Noam
    (Schedule(Exponential(0.5, "1 epoch")), {0: 1, 10: HALF, 20: 0.5, 40: 0.25, 100: 1 / 32, 200: 1 / 32}),
    (Schedule(Exponential(0.5, 20, staircase=True)), {0: 1, 19: 1, 20: 0.5, 99: 1 / 16, 100: 1 / 16}),
    (Schedule(Step(0.1, "30%")), {0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01, 90: 1e-3, 100: 1e-3, 120: 1e-3}),
    (Schedule(Step(0.1, "50%")), {49: 1, 50: 0.1, 99: 0.1, 100: 0.1, 150: 0.1}),  # nothing falls after the last step
    (Schedule(MultiStep(0.1, ["50%", "4 epochs"])), {0: 1, 49: 1, 50: 0.1, 79: 0.1, 80: 0.01, 100: 0.01}),
    # Cycles.
    (Schedule(WarmRestarts(50)), {0: 1, 25: 0.5, 49.9999999: 0, 50: 1, 75: 0.5, 100: 0, 110: 0}),
    (Schedule(WarmRestarts(20, 2)), {0: 1, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),  # 20, and 80 for the 40 and what is left
    (Schedule(WarmRestarts(50, decay=0.5)), {0: 1, 25: 0.5, 50: 0.5, 75: 0.25, 100: 0}),
    (Schedule(WarmRestarts(50, restart_warmup=9)), {0: 1, 50: 0.1, 54: 0.5, 59: 1, 79.5: 0.5, 100: 0}),
    (Schedule(WarmRestarts(40), warmup=20, warmup_start=0, floor=0.2), {10: 0.5, 20: 1, 40: 0.6, 60: 1, 100: 0.2}),
    (Schedule(Cyclical(50, 0)), {0: 0, 10: 0.4, 25: 1, 40: 0.4, 50: 0, 75: 1, 100: 0, 110: 0}),
    (Schedule(Cyclical(50, 0.5, rise="20%")), {0: 0.5, 5: 0.75, 10: 1, 30: 0.75, 50: 0.5, 60: 1, 100: 0.5}),
    (Schedule(Cyclical(40, 0, gamma=0.5)), {20: 1, 30: 0.5, 40: 0, 60: 0.5, 80: 0, 100: 0.25, 110: 0.25}),
    (Schedule(Cyclical(40, 0, gamma=0.25, smooth=True)), {10: 0.5, 20: 1, 30: 0.5 * HALF, 60: 0.25, 100: 1 / 16}),
    (Schedule(Cyclical(40, 0.1), floor=0.4), {0: 0.4, 10: 0.55, 20: 1, 40: 0.4, 100: 1}),  # cut, not lifted
    (Schedule(OneCycle(20, 0.5, 0)), {0: 0.5, 10: 0.75, 20: 1, 60: 0.5, 100: 0, 110: 0}),
    (Schedule(OneCycle("40%", 0.2, 0.1, "linear")), {0: 0.2, 20: 0.6, 40: 1, 70: 0.55, 100: 0.1}),
    (Schedule(OneCycle(20, 0.5, 0), cooldown=40), {20: 1, 40: 0.5, 60: 0, 100: 0}),
    # Pieces and tables.
    (
        Schedule(
            Piecewise(
                [
                    {"duration": 20, "shape": Linear(), "start": 0, "end": 1},
                    {"duration": "40%", "shape": Constant()},
                    {"shape": Cosine(), "start": 0.5, "end": 0.1},
                ]
            )
        ),
        {0: 0, 10: 0.5, 20: 1, 59: 1, 60: 0.5, 80: 0.3, 100: 0.1, 110: 0.1},
    ),
    (
        Schedule(Piecewise([{"duration": "1 epoch", "shape": Linear(), "end": 0.5}, {"shape": Exponential(0.5, 20)}])),
        {0: 1, 10: 0.75, 19: 0.525, 20: 1, 40: 0.5, 60: 0.25},
    ),
    (Schedule(Piecewise([{"duration": 20, "shape": Linear(), "end": 0.5}])), {10: 0.75, 20: 0.5, 100: 0.5}),
    (Schedule(Piecewise([{"shape": Exponential(0.5, 20), "end": 0.3}])), {20: 0.5, 40: 0.3, 100: 0.3}),  # cut off
    (Schedule(Piecewise([{"duration": 40, "shape": Constant()}, {"shape": Step(0.1, 50)}])), {49: 1, 50: 0.1}),
    (Schedule(Tabulated([[0, 0.5], [20, 1], [60, 0.2]])), {0: 0.5, 10: 0.75, 20: 1, 30: 0.8, 60: 0.2, 100: 0.2}),
    (Schedule(Tabulated([[10, 1.0], ["50%", 0.6], ["4 epochs", 0]])), {0: 1, 10: 1, 30: 0.8, 65: 0.3, 80: 0, 100: 0}),
    (
        Schedule(Tabulated([[0, 0.5], [20, 1], [60, 0.2]], between="hold")),
        {0: 0.5, 19.999: 0.5, 20: 1, 59: 1, 60: 0.2, 100: 0.2},
    ),
    (Schedule(Tabulated([[0, 1], [100, 0]], between="hold")), {0: 1, 99: 1, 100: 1}),  # held to the end
    (Schedule(Tabulated([[0, 1], [100, 0]])), {0: 1, 99: 0.01, 100: 0}),
    (Schedule(Tabulated([[0, 1], [100, 0]]), warmup=20, warmup_start=0), {0: 0, 10: 0.4, 20: 0.8, 60: 0.4}),
    # A warmup leads to where the shape starts.
    (Schedule(OneCycle(20, 0.5, 0), warmup=20), {0: 0.5 / 21, 10: 0.5 * 11 / 21, 20: 0.5, 30: 0.75, 40: 1, 100: 0}),
    (Schedule(Cyclical(40, 0.1), warmup=10, warmup_start=0.05), {0: 0.05, 5: 0.075, 10: 0.1, 30: 1}),
    (Schedule(Cyclical(40, 0), warmup=10, warmup_shape="exponential"), {0: 0, 5: 0, 10: 0, 30: 1}),
    # Warmup: 1/(w+1) at step 0, the peak at step w; the shape fills what is left.
    (Schedule(Constant(), warmup=4), {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1, 5: 1, 99: 1}),
    (Schedule(Constant(), warmup=1), {0: 0.5, 1: 1}),
    (Schedule(Linear(), warmup="10%"), {0: 1 / 11, 5: 6 / 11, 10: 1, 55: 0.5, 100: 0}),
    (Schedule(Linear(), warmup="1 epoch", warmup_start=0), {0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),
    (Schedule(Cosine(), warmup=20, warmup_start=0.5), {0: 0.5, 10: 0.75, 20: 1, 60: 0.5, 100: 0}),
    (Schedule(Exponential(0.5, 20), warmup=20, warmup_start=1.0), {0: 1, 19: 1, 20: 1, 40: 0.5}),
    (Schedule(MultiStep(0.1, [50]), warmup=10, warmup_start=0), {5: 0.5, 10: 1, 49: 1, 50: 0.1}),  # the run's clock
    (Schedule(Step(0.5, 20), warmup=50, warmup_start=0), {25: 0.5, 50: 1, 59: 1, 60: 0.5, 80: 0.25}),
    (Schedule(Constant(), 4, 0, warmup_shape="cosine"), {0: 0, 1: (1 - HALF) / 2, 2: 0.5, 3: (1 + HALF) / 2, 4: 1}),
    (Schedule(Constant(), 4, 1 / 16, warmup_shape="exponential"), {0: 1 / 16, 1: 1 / 8, 2: 1 / 4, 3: 1 / 2, 4: 1}),
    (Schedule(Constant(), 4, 0.3, warmup_shape="constant"), {0: 0.3, 3: 0.3, 3.999: 0.3, 4: 1, 5: 1}),
    (Schedule(Linear(), 20, warmup_shape="constant"), {0: 1 / 21, 19: 1 / 21, 20: 1, 60: 0.5, 100: 0}),
    # Cooldown: straight from where the shape is to the floor, which it meets at step 100.
    (Schedule(Constant(), cooldown="20%"), {0: 1, 80: 1, 85: 0.75, 90: 0.5, 99: 0.05, 100: 0, 110: 0}),
    (Schedule(Constant(), warmup=10, warmup_start=0, cooldown=90), {5: 0.5, 10: 1, 55: 0.5, 100: 0}),  # a triangle
    (Schedule(Exponential(0.5, 40), cooldown="1 epoch"), {40: 0.5, 80: 0.25, 90: 0.125, 100: 0}),
    (Schedule(MultiStep(0.1, [50]), cooldown=20), {49: 1, 50: 0.1, 80: 0.1, 90: 0.05, 100: 0}),
    (Schedule(Constant(), cooldown=20, floor=0.2), {80: 1, 90: 0.6, 100: 0.2, 200: 0.2}),
    (Schedule(Constant(), cooldown=20, cooldown_shape="cosine"), {80: 1, 85: (1 + HALF) / 2, 90: 0.5, 100: 0, 110: 0}),
    (Schedule(Constant(), cooldown=20, cooldown_shape="1-sqrt"), {80: 1, 85: 0.5, 90: 1 - HALF, 100: 0, 110: 0}),
    (Schedule(Constant(), cooldown=20, cooldown_shape="1-square"), {80: 1, 85: 15 / 16, 90: 0.75, 100: 0, 110: 0}),
    (Schedule(Constant(), cooldown=20, cooldown_shape="power"), {80: 1, 90: 0.5**1.2, 100: 0, 110: 0}),
    (
        Schedule(Constant(), cooldown=20, floor=1 / 16, cooldown_shape="exponential"),
        {80: 1, 85: 1 / 2, 90: 1 / 4, 95: 1 / 8, 100: 1 / 16, 110: 1 / 16},
    ),
    (
        Schedule(Exponential(0.5, 40), cooldown=20, floor=1 / 64, cooldown_shape="exponential"),
        {40: 1 / 2, 80: 1 / 4, 90: 1 / 16, 100: 1 / 64},
    ),
    (Schedule(Constant(), cooldown=20, floor=0.2, cooldown_shape="1-sqrt"), {80: 1, 85: 0.6, 100: 0.2}),
    # Floor: a shape that lands is lifted, any other is cut.
    (Schedule(Linear(), floor=0.1), {0: 1, 50: 0.55, 100: 0.1}),
    (Schedule(Cosine(), floor="10%"), {0: 1, 50: 0.55, 100: 0.1, 150: 0.1}),
    (Schedule(Polynomial(2), floor=0.5), {50: 0.625, 100: 0.5}),
    (Schedule(Exponential(0.5, 20), floor=0.3), {20: 0.5, 40: 0.3, 100: 0.3}),
    (Schedule(Step(0.1, 30), floor=0.05), {29: 1, 30: 0.1, 60: 0.05, 90: 0.05}),
    (Schedule(Linear(), warmup=20, warmup_start=0, floor=0.5), {0: 0, 5: 0.25, 20: 1, 60: 0.75, 100: 0.5}),
    (Schedule(Linear(), cooldown=50, floor=0.5), {25: 0.75, 50: 0.5, 75: 0.5, 100: 0.5}),
    (Schedule(Cosine(), floor=1.0), {0: 1, 37: 1, 100: 1}),
    # Fractional steps, and steps before the first.
    (Schedule(Linear()), {0.5: 0.995, 99.5: 0.005, -1: 1}),
    (Schedule(Step(0.1, 30)), {29.999: 1, 30.0: 0.1}),
]


@pytest.mark.parametrize(
    ("schedule", "expected"), TABLE, ids=lambda cell: repr(cell.shape) if isinstance(cell, Schedule) else ""
)
def test_the_multipliers_of(schedule: Schedule, expected: dict[float, float]) -> None:
    assert schedule(list(expected), RUN) == pytest.approx(list(expected.values()), rel=1e-12, abs=1e-15)


def test_an_answer_has_the_shape_of_the_question() -> None:
    schedule = Schedule(Cosine(), warmup=10)
    scalar = schedule(5, RUN)
    assert isinstance(scalar, np.float64)
    assert np.ndim(scalar) == 0
    grid = schedule(np.arange(6).reshape(2, 3), RUN)
    assert grid.shape == (2, 3)
    assert grid.dtype == np.float64
    assert grid[1, 2] == scalar
    assert schedule([], RUN).shape == (0,)


def test_the_same_multiplier_from_every_memory_layout() -> None:
    schedule = Schedule(Polynomial(2.7), warmup=7, floor=0.01)
    steps = np.arange(100)
    straight = schedule(steps, RUN)
    assert schedule(steps[::-1], RUN)[::-1].tobytes() == straight.tobytes()
    assert schedule(steps.astype(np.int32), RUN).tobytes() == straight.tobytes()
    assert schedule(np.asfortranarray(steps.reshape(10, 10)), RUN).reshape(-1).tobytes() == straight.tobytes()
    assert steps.tolist() == list(range(100))


@pytest.mark.parametrize(
    ("arguments", "key", "fragment"),
    [
        ({"warmup": -1}, "schedule.warmup", "cannot be negative"),
        ({"warmup": 0.1}, "schedule.warmup", "0.1 is not a whole number of steps"),
        ({"warmup": "soon"}, "schedule.warmup", "is not a duration"),
        ({"cooldown": None}, "schedule.cooldown", "is not a duration"),
        ({"warmup_start": -0.1}, "schedule.warmup_start", "expected a number from 0"),
        ({"floor": -0.1}, "schedule.floor", "from 0 to 1"),
        ({"floor": 2}, "schedule.floor", "from 0 to 1"),
        ({"floor": math.nan}, "schedule.floor", "from 0 to 1"),
        ({"floor": "low"}, "schedule.floor", "from 0 to 1"),
        ({"floor": "5 steps"}, "schedule.floor", "from 0 to 1"),
        ({"floor": None}, "schedule.floor", "from 0 to 1"),
        ({"warmup_shape": "cosin"}, "schedule.warmup_shape", "expected linear, cosine, exponential, constant"),
        ({"warmup_shape": None}, "schedule.warmup_shape", "expected linear, cosine, exponential, constant"),
        ({"cooldown_shape": "sqrt"}, "schedule.cooldown_shape", "expected linear, cosine, 1-sqrt, 1-square, power"),
        (
            {"warmup_shape": "exponential", "warmup_start": 0},
            "schedule.warmup_start",
            "an exponential warmup cannot start at 0",
        ),
        (
            {"cooldown_shape": "exponential"},
            "schedule.cooldown_shape",
            "an exponential cooldown cannot end at a floor of 0",
        ),
        ({"shape": "cosine"}, "schedule.shape", "expected a shape"),
        ({"shape": Cosine}, "schedule.shape", "expected a shape"),
    ],
    ids=str,
)
def test_invalid_arguments(arguments: dict[str, Any], key: str, fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule(**{"shape": Constant(), **arguments})
    (problem,) = caught.value.problems
    assert problem.key == key
    assert fragment in problem.message


def test_all_bad_arguments_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule(None, warmup=-1, warmup_start=-2, cooldown="late", floor="deep")
    keys = [problem.key for problem in caught.value.problems]
    assert sorted(keys) == [f"schedule.{name}" for name in ["cooldown", "floor", "shape", "warmup", "warmup_start"]]


@pytest.mark.parametrize(
    ("schedule", "messages"),
    [
        (Schedule(Cosine(), warmup="5%"), {}),
        (Schedule(Constant(), warmup=10, cooldown=90), {}),
        (Schedule(Constant(), warmup=100), {"schedule.warmup": "is 100 steps, but the run has only 100"}),
        (Schedule(Constant(), warmup="6 epochs"), {"schedule.warmup": "is 120 steps, but the run has only 100"}),
        (Schedule(Constant(), cooldown="100%"), {"schedule.cooldown": "is 100 steps, but the run has only 100"}),
        (
            Schedule(Constant(), warmup=30, cooldown="80%"),
            {"schedule.cooldown": "starts at step 20, before the warmup ends at step 30"},
        ),
        (
            Schedule(Step(0.1, 10), warmup=50, cooldown=50),
            {"schedule.shape": "has no room: warmup (50 steps) and cooldown (50) fill the run of 100"},
        ),
        (
            Schedule(Cosine(), cooldown=10),
            {"schedule.cooldown": "would spend its 10 steps at an LR of 0, which the shape has already reached"},
        ),
        (
            Schedule(OneCycle(30, end=0), cooldown=10),
            {"schedule.cooldown": "would spend its 10 steps at an LR of 0, which the shape has already reached"},
        ),
        (Schedule(Cosine(), cooldown=10, floor=0.1), {}),  # held at the floor: that can be meant
        (
            Schedule(OneCycle(), warmup=10, warmup_start=0.1),
            {"schedule.warmup_start": "is above 0.04, where the shape starts"},
        ),
        (
            Schedule(MultiStep(0.1, [20, 95]), warmup=30, cooldown=10),
            {
                "schedule.shape.milestones[0]": "is step 20, in the warmup, which ends at step 30",
                "schedule.shape.milestones[1]": "is step 95, in the cooldown, which starts at 90",
            },
        ),
        (Schedule(MultiStep(0.1, [50, "50%", 20])), {}),
        (
            Schedule(MultiStep(0.1, [200]), warmup=300),
            {
                "schedule.warmup": "is 300 steps, but the run has only 100",
                "schedule.shape.milestones[0]": "is step 200, but the run has 100",
            },
        ),
    ],
    ids=lambda cell: repr(cell) if isinstance(cell, Schedule) else "",
)
def test_problems_of_a_schedule_with_a_horizon(schedule: Schedule, messages: dict[str, str]) -> None:
    assert {problem.key: problem.message for problem in schedule.check(RUN)} == messages


def test_unknown_epochs_are_problems_all_at_once() -> None:
    schedule = Schedule(Exponential(0.9, "1 epoch"), warmup="1 epoch", cooldown="2 epochs")
    problems = schedule.check(Horizon(100), key="layers.rules[0].schedule")
    assert [problem.key.removeprefix("layers.rules[0].schedule.") for problem in problems] == [
        "warmup",
        "cooldown",
        "shape.every",
    ]
    assert all("no steps_per_epoch" in problem.message for problem in problems)


def test_a_constant_warmup_ends_in_a_jump() -> None:
    schedule = Schedule(MultiStep(0.1, [50]), warmup=10, warmup_shape="constant")
    assert schedule.jumps(RUN) == (10, 50)
    assert Schedule(Constant(), warmup=100, warmup_shape="constant").jumps(RUN) == (100,)  # for a run that goes on
    assert Schedule(Constant(), warmup_shape="constant").jumps(RUN) == ()


def test_the_phase_that_the_shape_fills() -> None:
    phase = Schedule(Constant(), warmup="5%", cooldown="1 epoch").phase(RUN)
    assert (phase.start, phase.stop) == (5, 80)


def test_schedules_are_values() -> None:
    schedule = Schedule(Cosine(), warmup="5%")
    assert schedule == Schedule(Cosine(), warmup=Duration(0.05, "fraction"))
    assert hash(schedule) == hash(Schedule(Cosine(), warmup="5%"))
    assert schedule != Schedule(Cosine(), warmup="6%")
    assert replace(schedule, floor=0.1) == Schedule(Cosine(), warmup="5%", floor=0.1)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    with pytest.raises(AttributeError):
        schedule.floor = 0.5  # type: ignore[misc]

"""Curves of groups that are unfrozen later: 0 until then, then a warmup of the group's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.errors import ConfigError
from lrflow.schedules import Constant, Continued, Cosine, Curve, Horizon, Linear, MultiStep, Schedule, Unfreezing
from lrflow.schedules.serialization import from_spec, to_spec

RUN, LONGER, SHORTER = Horizon(100, 20), Horizon(200, 20), Horizon(60, 20)
LINEAR = Schedule(Linear())

TABLE: list[tuple[Curve, Horizon, dict[int, float]]] = [
    # A line from 1 to 0 over 100 steps, joined at step 40, where it is at 0.6.
    (Unfreezing(LINEAR, 40), RUN, {0: 0, 39: 0, 40: 0.6, 99: 0.01, 100: 0}),
    (Unfreezing(LINEAR, "2 epochs"), RUN, {39: 0, 40: 0.6}),
    (Unfreezing(LINEAR, "40%"), RUN, {39: 0, 40: 0.6}),
    (Unfreezing(LINEAR, 0), RUN, {0: 1, 50: 0.5}),
    # With a warmup of 4 steps it has 1/5, 2/5, ... of the schedule.
    (Unfreezing(LINEAR, 40, 4), RUN, {39: 0, 40: 0.12, 41: 0.236, 43: 0.456, 44: 0.56, 50: 0.5}),
    (Unfreezing(Schedule(Constant()), 0, 4), RUN, {0: 0.2, 3: 0.8, 4: 1}),  # as a schedule's own warmup
    # The run's own warmup goes on while the group is frozen.
    (Unfreezing(Schedule(Constant(), warmup=20, warmup_start=0), 10), RUN, {9: 0, 10: 0.5, 20: 1}),
    (Unfreezing(Unfreezing(LINEAR, 40), 20), RUN, {39: 0, 40: 0.6}),
    # Resumed at step 20, before the group trains, with twice the steps.
    (Continued(Unfreezing(LINEAR, "40%"), 20, RUN, "keep"), LONGER, {39: 0, 40: 0.6, 99: 0.01}),
    (Continued(Unfreezing(LINEAR, "40%"), 20, RUN, "rescale"), LONGER, {79: 0, 80: 0.6, 199: 0.005}),
    (Continued(Unfreezing(LINEAR, "40%"), 20, RUN, "extend"), LONGER, {64: 0, 65: 0.6, 200: 0}),
    (Continued(Unfreezing(LINEAR, 40), 20, RUN, "rescale"), SHORTER, {39: 0, 40: 1 / 3, 60: 0}),
    # Resumed after it: what it did stands, and what is left is kept, stretched or brought down.
    (Continued(Unfreezing(LINEAR, 40), 60, RUN, "extend"), LONGER, {39: 0, 40: 0.6, 59: 0.41, 60: 0.4, 130: 0.2}),
    (Continued(Unfreezing(LINEAR, 40), 60, RUN, "decay_now"), LONGER, {39: 0, 40: 0.6, 60: 0.4, 130: 0.2}),
    (Continued(Unfreezing(LINEAR, "40%"), 40, RUN, "rescale"), LONGER, {40: 0, 79: 0, 80: 0.6}),
    (Continued(Unfreezing(LINEAR, "40%"), 50, RUN, "rescale"), SHORTER, {39: 0, 40: 0.6, 50: 1 / 6}),
]


@pytest.mark.parametrize(("curve", "horizon", "expected"), TABLE)
def test_the_multipliers(curve: Curve, horizon: Horizon, expected: dict[int, float]) -> None:
    assert curve(list(expected), horizon) == pytest.approx(list(expected.values()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("curve", "horizon", "_"), TABLE)
def test_its_first_step_is_declared(curve: Curve, horizon: Horizon, _: object) -> None:
    values = curve(np.arange(horizon.steps), horizon)
    start = curve.first_step(horizon)
    assert not values[:start].any()
    assert (values[start : start + 20] > 0).all()
    assert start == 0 or start in curve.jumps(horizon)
    assert curve.without_freezing().first_step(horizon) == 0
    assert curve.without_freezing()(0, horizon) == pytest.approx(1.0) or "Constant" in repr(curve)


@given(st.integers(0, 150), st.integers(0, 60), st.integers(1, 120))
def test_it_is_a_line_times_the_schedule(at: int, warmup: int, steps: int) -> None:
    """For every schedule and every shape of the steps."""
    inner, horizon = Schedule(Cosine(), warmup="10%", floor=0.1), Horizon(steps)
    curve = Unfreezing(inner, at, warmup)
    for step in {0, min(at, steps), min(at + warmup // 2, steps), steps}:
        share = 0.0 if step < at else min((step - at + 1) / (warmup + 1), 1.0)
        assert curve(step, horizon) == pytest.approx(inner(step, horizon) * share, abs=1e-15)
    every = curve(np.arange(steps + 1), horizon)
    assert every.tolist() == [curve(step, horizon) for step in range(steps + 1)]


def test_jumps_are_its_own_and_those_that_are_left() -> None:
    inner = Schedule(MultiStep(gamma=0.1, milestones=[20, 40, 60]))
    assert Unfreezing(inner, 30).jumps(RUN) == (30, 40, 60)
    assert Unfreezing(inner, 40).jumps(RUN) == (40, 60)
    assert Unfreezing(inner, 0).jumps(RUN) == (20, 40, 60)
    assert Unfreezing(inner, 100).jumps(RUN) == ()
    assert Continued(Unfreezing(inner, 30), 35, RUN, "extend").jumps(Horizon(165)) == (30, 45, 85)


def test_the_phase_begins_where_both_warmups_are_over() -> None:
    inner = Schedule(Constant(), warmup=10, cooldown=20)
    assert Unfreezing(inner, 2, 4).phase(RUN).start == 10
    phase = Unfreezing(inner, 30, 5).phase(RUN)
    assert (phase.start, phase.stop) == (35, 80)
    phase = Unfreezing(inner, 78, 5).phase(RUN)
    assert (phase.start, phase.stop) == (83, 83)


def test_its_spec_makes_it_again() -> None:
    curve = Unfreezing(LINEAR, "2 epochs", "5%")
    assert to_spec(curve) == {
        "_target_": "lrflow.schedules.Unfreezing",
        "schedule": to_spec(LINEAR),
        "at": "2 epochs",
        "warmup": "5%",
    }
    assert from_spec(to_spec(curve)) == curve
    continued = Continued(curve, 60, RUN, "keep")
    assert from_spec(to_spec(continued)) == continued


def test_invalid_arguments() -> None:
    with pytest.raises(ConfigError) as caught:
        Unfreezing(None, "soon", -1)  # type: ignore[arg-type]
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["unfreezing.schedule", "unfreezing.at", "unfreezing.warmup"]


def test_epochs_of_unknown_length_are_reported() -> None:
    (problem,) = Unfreezing(LINEAR, "2 epochs").check(Horizon(100))
    assert problem.key == "layers"
    assert problem.message.startswith("2 epochs cannot be counted in steps")
    assert Unfreezing(LINEAR, 40).check(Horizon(100)) == []
    with pytest.raises(ValueError, match="steps_per_epoch"):
        Unfreezing(LINEAR, "2 epochs")(0, Horizon(100))


@pytest.mark.parametrize(
    ("at", "resumed", "how", "message"),
    [
        ("40%", 50, "rescale", "a group that trains since step 40 would be frozen again until step 80"),
        (40, 20, "decay_now", "a group is frozen until step 40, so its LR would fall from 0"),
        ("40%", 50, "extend", None),
        ("2 epochs", 50, "rescale", None),
        (40, 40, "decay_now", None),
        (40, 50, "decay_now", None),
    ],
)
def test_a_resumed_run_freezes_no_group_for_good_or_again(
    at: str | int, resumed: int, how: str, message: str | None
) -> None:
    problems = Continued(Unfreezing(LINEAR, at), resumed, RUN, how).check(LONGER)  # type: ignore[arg-type]
    assert [problem.key for problem in problems] == (["resume.horizon"] if message else [])
    assert not message or problems[0].message.startswith(message)


@pytest.mark.parametrize("how", ["keep", "rescale"])
def test_a_run_that_is_cut_short_before_the_group_trains(how: str) -> None:
    continued = Continued(Unfreezing(LINEAR, 80), 20, RUN, how)  # type: ignore[arg-type]
    (problem,) = continued.check(SHORTER)
    assert problem.key == "resume.horizon"
    assert "step 80, but the run now has only 60" in problem.message

"""Curves of optimizers that step at every k-th step of the run: their schedule, in their own steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.errors import ConfigError
from lrflow.schedules import Constant, Continued, Cosine, Curve, Horizon, Linear, OwnSteps, Schedule, Step, Unfreezing
from lrflow.schedules.serialization import from_spec, to_spec

RUN, LONGER = Horizon(100, 25), Horizon(200, 25)
LINEAR = Schedule(Linear())

TABLE: list[tuple[Curve, Horizon, dict[int, float]]] = [
    # 50 steps of its own, on a line from 1 to 0.
    (OwnSteps(LINEAR, 2), RUN, {0: 1, 1: 1, 2: 0.98, 3: 0.98, 50: 0.5, 98: 0.02, 99: 0.02, 100: 0}),
    # 33 of them, and one step of the run is left over.
    (OwnSteps(LINEAR, 3), RUN, {2: 1, 3: 32 / 33, 98: 1 / 33, 99: 0}),
    (OwnSteps(LINEAR, 100), RUN, {0: 1, 99: 1}),
    # A warmup of 4 of its steps, of 2 epochs, of 10%.
    (OwnSteps(Schedule(Constant(), warmup=4), 2), RUN, {0: 0.2, 1: 0.2, 2: 0.4, 7: 0.8, 8: 1}),
    (OwnSteps(Schedule(Constant(), warmup="2 epochs", warmup_start=0), 2), RUN, {0: 0, 24: 0.48, 49: 0.96, 50: 1}),
    (OwnSteps(Schedule(Constant(), warmup="10%", warmup_start=0), 2), RUN, {0: 0, 4: 0.4, 9: 0.8, 10: 1}),
    (OwnSteps(Schedule(Step(every="1 epochs", gamma=0.1)), 5), RUN, {24: 1, 25: 0.1, 49: 0.1, 50: 0.01}),
    # Frozen for a time of the run.
    (Unfreezing(OwnSteps(LINEAR, 2), 41), RUN, {40: 0, 41: 0.6, 42: 0.58}),
    (OwnSteps(Unfreezing(LINEAR, 20), 2), RUN, {39: 0, 40: 0.6}),
    # Resumed.
    (Continued(OwnSteps(LINEAR, 2), 40, RUN, "rescale"), LONGER, {38: 0.62, 40: 0.8, 41: 0.8, 42: 0.79}),
    (Continued(OwnSteps(LINEAR, 2), 40, RUN, "extend"), LONGER, {38: 0.62, 40: 0.6, 120: 0.3, 200: 0}),
]


@pytest.mark.parametrize(("curve", "horizon", "expected"), TABLE)
def test_the_multipliers(curve: Curve, horizon: Horizon, expected: dict[int, float]) -> None:
    assert curve(list(expected), horizon) == pytest.approx(list(expected.values()), rel=1e-9, abs=1e-12)
    assert from_spec(to_spec(curve)) == curve
    assert not curve.check(horizon)


@given(st.integers(2, 9), st.integers(9, 200), st.integers(1, 60))
def test_its_steps_are_those_of_the_schedule_alone(every: int, steps: int, epoch: int) -> None:
    """Whether an epoch is a whole number of its steps or not."""
    schedule = Schedule(Cosine(), warmup="10%")
    own = np.arange(steps // every)
    found = OwnSteps(schedule, every)((own + 1) * every - 1, Horizon(steps, epoch))
    assert (found == schedule(own, Horizon(steps // every))).all()
    days = Schedule(Constant(), warmup="1.5 epochs").warmup.steps(Horizon(steps, epoch).of_every(every))
    assert days == pytest.approx(1.5 * epoch / every, abs=0.5)


def test_every_change_is_a_declared_jump_and_the_warmup_ends_where_it_does() -> None:
    curve = OwnSteps(Schedule(Linear(), warmup=5, cooldown=10, floor=0.5), 3)
    values = curve(np.arange(101), RUN)
    assert set(np.flatnonzero(np.diff(values)) + 1) == set(curve.jumps(RUN))
    assert (curve.phase(RUN).start, curve.phase(RUN).stop) == (15, 69)
    assert OwnSteps(Schedule(Constant()), 3).phase(RUN).stop == 100


def test_what_does_not_fit_is_told_in_its_own_steps() -> None:
    (problem,) = OwnSteps(Schedule(Linear(), warmup=60), 2).check(RUN)
    assert problem.message.startswith("is 60 steps, but the run has only 50 (counted in the optimizer's own steps")
    (problem,) = OwnSteps(LINEAR, 101).check(RUN)
    assert problem.message == "steps at every 101 steps, and the run has only 100"
    for wrong in (1, 2.0, True, "2"):
        with pytest.raises(ConfigError, match="expected a whole number of at least 2"):
            OwnSteps(LINEAR, wrong)  # type: ignore[arg-type]

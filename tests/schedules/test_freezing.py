"""Curves of groups that are frozen after a part of the run: the schedule until then, 0 from there on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.schedules import Continued, Cosine, Curve, FrozenAfter, Horizon, Linear, OwnSteps, Schedule, Unfreezing
from lrflow.schedules.serialization import from_spec, to_spec

RUN, LONGER = Horizon(100, 20), Horizon(200, 20)
LINEAR = Schedule(Linear())


@pytest.mark.parametrize(
    ("curve", "horizon", "expected", "stop"),
    [
        # A line from 1 to 0 over 100 steps, which ends at step 40, where it would be at 0.6.
        (FrozenAfter(LINEAR, 40), RUN, {0: 1, 39: 0.61, 40: 0, 100: 0}, 40),
        (FrozenAfter(LINEAR, "2 epochs"), RUN, {39: 0.61, 40: 0}, 40),
        (FrozenAfter(Unfreezing(LINEAR, 20), "40%"), RUN, {19: 0, 20: 0.8, 39: 0.61, 40: 0}, 40),
        (FrozenAfter(OwnSteps(LINEAR, 2), "40%"), RUN, {0: 1, 39: 0.62, 40: 0}, 40),
        # Resumed with twice the steps, before it is frozen and after.
        (Continued(FrozenAfter(LINEAR, "40%"), 20, RUN, "keep"), LONGER, {39: 0.61, 40: 0, 199: 0}, 40),
        (Continued(FrozenAfter(LINEAR, "40%"), 20, RUN, "rescale"), LONGER, {79: 0.605, 80: 0}, 80),
        (Continued(FrozenAfter(LINEAR, "40%"), 20, RUN, "extend"), LONGER, {64: 1 - 0.4, 65: 0}, 65),
        (Continued(FrozenAfter(LINEAR, "40%"), 60, RUN, "extend"), LONGER, {39: 0.61, 40: 0, 199: 0}, 40),
        (Continued(FrozenAfter(LINEAR, 40), 60, RUN, "rescale"), LONGER, {39: 0.61, 40: 0, 199: 0}, 40),
        (Continued(FrozenAfter(LINEAR, 40), 60, RUN, "decay_now"), LONGER, {39: 0.61, 40: 0, 199: 0}, 40),
        (Continued(FrozenAfter(LINEAR, 40), 20, RUN, "decay_now"), LONGER, {20: 0.8, 110: 0.4}, None),
    ],
)
def test_values(curve: Curve, horizon: Horizon, expected: dict[int, float], stop: int | None) -> None:
    values = curve(np.array(list(expected)), horizon)
    # `extend` stretches 80 steps over 180: step 64 is step 39.6 of the old run.
    tolerance = 0.005 if isinstance(curve, Continued) and curve.how == "extend" else 1e-12
    assert values == pytest.approx(list(expected.values()), abs=tolerance)
    assert curve.frozen_from(horizon) == stop
    assert not curve.check(horizon)
    if stop is not None:
        assert stop in curve.jumps(horizon)
        assert not curve(np.arange(stop, horizon.steps + 1), horizon).any()


@given(st.integers(2, 300), st.data())
def test_before_the_freezing_it_is_the_schedule(steps: int, data: st.DataObject) -> None:
    at, horizon = data.draw(st.integers(1, steps - 1)), Horizon(steps)
    schedule = Schedule(Cosine(), warmup="10%", floor=0.1)
    curve, every = FrozenAfter(schedule, at), np.arange(steps)
    assert (curve(every, horizon) == np.where(every < at, schedule(every, horizon), 0.0)).all()
    assert from_spec(to_spec(curve)) == curve
    assert curve.without_freezing() == schedule


@pytest.mark.parametrize(
    ("curve", "horizon", "text"),
    [
        (FrozenAfter(LINEAR, 100), RUN, "at step 100, but the run has only 100"),
        (FrozenAfter(Unfreezing(LINEAR, 60), 60), RUN, "at step 60, and it trains only from step 60"),
        (FrozenAfter(LINEAR, "2 epochs"), Horizon(100), "epoch"),
        (Continued(FrozenAfter(LINEAR, "40%"), 60, RUN, "rescale"), LONGER, "frozen since step 40 would train again"),
    ],
)
def test_problems(curve: Curve, horizon: Horizon, text: str) -> None:
    assert text in " ".join(problem.message for problem in curve.check(horizon))

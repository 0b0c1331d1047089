"""Shares of checkpoints against closed forms, and a hand-written SGD whose LR decays or does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.plan.merging import chosen, decay, shares
from lrflow.schedules import Constant, Horizon, Schedule
from lrflow.schedules.ramps import COOLDOWNS
from lrflow.tasks.merge import curve_named

RUN, OVER = 60, 24
START = RUN - OVER
DECAYING = ("cosine", "polynomial", "rex", "tanh", "inverse_time", "inverse_sqrt", "step", "multistep", "flat_cosine")


def sgd(gradients: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The weights before the first and after each step, [steps + 1, size]."""
    return np.cumsum(np.concatenate([np.ones((1, gradients.shape[1])), -rates[:, None] * gradients]), axis=0)


@pytest.mark.parametrize("name", dict.fromkeys([*COOLDOWNS, *DECAYING]))
@pytest.mark.parametrize("every", [1, 4])
def test_a_merge_equals_the_decayed_run_on_fixed_gradients(name: str, every: int) -> None:
    floor = 0.01 if name == "exponential" else 0.0
    gradients = np.random.default_rng(0).standard_normal((RUN // every, 5)).repeat(every, axis=0)
    multipliers = decay(name, floor, Horizon(OVER, 12), curve_named(name, floor))
    if name in COOLDOWNS:  # the schedule that a run would have had
        planned = Schedule(Constant(), cooldown=OVER, cooldown_shape=name, floor=floor)(np.arange(RUN), Horizon(RUN))
    else:
        planned = np.concatenate([np.ones(START), multipliers])
    decayed = sgd(gradients, 0.1 * planned)[-1]
    constant = sgd(gradients, np.full(RUN, 0.1))
    points = list(range(START - every, RUN + 1, every))
    found = shares(points, START, multipliers)
    assert math.fsum(found) == 1.0
    assert all(share >= -1e-15 for share in found)
    np.testing.assert_allclose(np.array(found) @ constant[points], decayed, rtol=0, atol=1e-12)


def test_shares_of_a_linear_decay_are_equal() -> None:
    """Tian et al., 2025: a linear decay is the plain mean of the checkpoints."""
    found = shares(list(range(10, 21)), 10, decay("linear", 0.0, Horizon(10), None))
    np.testing.assert_allclose(found, [0.0, *[0.1] * 10], atol=1e-15)


def test_a_decay_between_two_checkpoints_counts_from_the_one_before() -> None:
    """The stretch from 8 to 12 has two steps at the peak, and two of the decay."""
    found = shares([8, 12, 16], 10, np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.0]))
    np.testing.assert_allclose(found, [1 - 0.95, 0.95 - 0.3, 0.3])


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ([10, 20, 30, 40, 50], "the first checkpoint in RUN is of step 10"),
        ([0, 50], "needs at least 4 checkpoints from step 5 to 50, and RUN has 2: 0, 50"),
        ([50], "keep=null keeps all checkpoints"),
    ],
)
def test_too_few_checkpoints_are_refused(saved: list[int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        chosen(saved, 5, 50, "RUN")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("exponential", "give a task.floor"),
        ("1-sqr", "did you mean 1-sqrt"),
        ("one_cycle", "does not begin at the peak"),
        ("noam", "is no decay by itself"),
    ],
)
def test_what_is_no_decay_is_refused(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        decay(name, 0.0, Horizon(20, 5), curve_named(name, 0.0))

"""The bound of the last iterate, against its formula, published rates and runs on the worst case."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.schedules import Constant, Cosine, Horizon, Linear, Schedule, bound
from lrflow.schedules.bound import best_lr_ratio, last_iterate, last_iterate_of, relative_bound

CURVES = {
    "constant": Schedule(Constant()),
    "wsd": Schedule(Constant(), cooldown="20%"),
    "1-sqrt": Schedule(Constant(), cooldown="20%", cooldown_shape="1-sqrt"),
    "cosine": Schedule(Cosine()),
    "linear": Schedule(Linear()),
}
multipliers = st.lists(st.floats(1e-3, 1), min_size=1, max_size=40)


def by_the_theorem(eta, g):
    """Theorem 10 of arXiv 2310.07831 with D = G = 1, term by term."""
    last = len(eta)

    def total(k, power=1):
        return sum(each**power for each in eta[k:])

    tail = sum(eta[k] / total(k + 1) * total(k, 2) / total(k) for k in range(last - 1))
    return 1 / (2 * g * total(0)) + g / 2 * (total(0, 2) / total(0) + tail)


@given(multipliers)
def test_the_bound_is_that_of_the_theorem_at_its_best_lr(eta):
    found = last_iterate(np.array(eta))
    assert found.bound == pytest.approx(by_the_theorem(eta, found.best_lr), rel=1e-9)
    for factor in (0.5, 0.99, 1.01, 2):
        assert by_the_theorem(eta, factor * found.best_lr) > found.bound


@given(multipliers, st.floats(0.01, 100))
def test_a_scaled_schedule_has_the_same_bound_and_the_inverse_best_lr(eta, scale):
    found, scaled = last_iterate(np.array(eta)), last_iterate(scale * np.array(eta))
    assert scaled.bound == pytest.approx(found.bound)
    assert scaled.best_lr * scale == pytest.approx(found.best_lr)


@given(multipliers)
def test_no_run_on_a_convex_loss_ends_above_the_bound(eta):
    """|x| from x = 1: convex, with subgradients of norm 1 at a distance of 1 from the minimum."""
    found, x = last_iterate(np.array(eta)), 1.0
    for each in eta[:-1]:  # the last LR makes the step after the last iterate of the theorem
        x -= found.best_lr * each * np.sign(x)
    assert abs(x) <= found.bound + 1e-12


def test_steps_at_the_end_that_change_nothing_are_left_out():
    assert last_iterate(np.array([0.0, 1.0, 0.5, 0.0, 0.0])) == last_iterate(np.array([0.0, 1.0, 0.5]))
    assert last_iterate(np.zeros(3)) is None
    assert relative_bound(Schedule(Constant()), Horizon(1)) == 1


def test_known_constants():
    horizon = Horizon(6400)
    found = {name: last_iterate_of(curve, horizon).bound * 80 for name, curve in CURVES.items()}
    expected = {"constant": 3.22, "wsd": 2.16, "1-sqrt": 2.13, "cosine": 2.06, "linear": 2.00}
    assert {name: round(value, 2) for name, value in found.items()} == expected
    assert relative_bound(CURVES["constant"], horizon) == pytest.approx(3.216 / 2.001, abs=1e-3)
    # A constant LR loses a logarithm: its bound is sqrt((1 + log T + ...) / T).
    logs = [(last_iterate_of(CURVES["constant"], Horizon(n)).bound ** 2) * n - math.log(n) for n in (10**3, 10**5)]
    assert logs[0] == pytest.approx(logs[1], abs=0.01)


def test_the_ratio_of_best_lrs_between_two_schedules():
    horizon = Horizon(6400)
    ratio = best_lr_ratio((CURVES["wsd"], horizon), (CURVES["cosine"], horizon))
    assert (round(ratio.schedule, 2), ratio.length, round(ratio.total, 2)) == (0.53, 1.0, 0.53)
    longer = best_lr_ratio((CURVES["wsd"], Horizon(25_600)), (CURVES["cosine"], horizon))
    assert longer.length == 0.5
    assert longer.schedule == pytest.approx(ratio.schedule, rel=0.01)
    back = best_lr_ratio((CURVES["cosine"], horizon), (CURVES["wsd"], Horizon(25_600)))
    assert back.total * longer.total == pytest.approx(1)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_a_run_of_more_steps_than_are_evaluated(curve, monkeypatch):
    horizon = Horizon(40_000)
    exact = last_iterate_of(curve, horizon)
    monkeypatch.setattr(bound, "MOST_STEPS", 4_000)
    found = last_iterate_of(curve, horizon)
    assert found != exact
    assert (found.bound, found.best_lr) == pytest.approx((exact.bound, exact.best_lr), rel=1e-3)

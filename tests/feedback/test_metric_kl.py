from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lrflow.feedback import KLAdaptive


def test_above_twice_the_target_it_falls_and_below_half_of_it_it_rises(factors: Any) -> None:
    feedback = KLAdaptive(desired_kl=0.01)
    found = factors(feedback, [0.021, 0.02, 0.01, 0.005, 0.0049])
    assert found == [1 / 1.5, 1 / 1.5, 1 / 1.5, 1 / 1.5, 1 / 1.5 * 1.5]


@given(st.lists(st.floats(1e-6, 1.0), max_size=40))
def test_the_rule_of_rsl_rl_on_an_lr(readings: list[float]) -> None:
    """As published for its PPO: bounds 1e-5 and 1e-2 around an LR of 1e-3."""
    lr, feedback = 1e-3, KLAdaptive(desired_kl=0.01, min_factor=0.01, max_factor=10.0)
    for kl in readings:
        if kl > 0.02:
            lr = max(1e-5, lr / 1.5)
        elif kl < 0.005 and kl > 0.0:
            lr = min(1e-2, lr * 1.5)
        feedback.update(kl)
        assert math.isclose(feedback.factor * 1e-3, lr, rel_tol=1e-12)


def test_without_a_measurement_nothing_moves(factors: Any) -> None:
    assert factors(KLAdaptive(), [0.0, math.nan, -0.001]) == [1.0, 1.0, 1.0]


def test_an_infinite_divergence_lowers(factors: Any) -> None:
    assert factors(KLAdaptive(factor=2.0), [math.inf]) == [0.5]


def test_it_resumes_from_its_state() -> None:
    first, second = KLAdaptive(), KLAdaptive(min_factor=0.5)
    for _ in range(4):
        first.update(1.0)
    second.load_state_dict(first.state_dict())
    assert (first.factor, second.factor) == (1 / 1.5 / 1.5 / 1.5 / 1.5, 0.5)


def test_its_description() -> None:
    assert KLAdaptive().describe() == "KL-adaptive on train/kl: x1.5 below 0.005, /1.5 above 0.02"


def test_all_values_out_of_range_are_reported_at_once(wrong: Any) -> None:
    settings = {"desired_kl": 0, "band": 1, "factor": 1}
    assert wrong(KLAdaptive, **settings) == {f"feedback.{name}" for name in settings}

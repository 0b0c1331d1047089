"""GreedyLR against values computed by hand, and its bounds as fractions of the plan."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.feedback import Greedy

HALF = {"factor": 0.5, "threshold": 0.0, "min_factor": 0.125, "max_factor": 4.0}


def test_improvements_beyond_patience_raise_and_failures_lower(factors: Any) -> None:
    feedback = Greedy(**HALF, patience=1)
    # better, better: /0.5; better, better: /0.5; worse, worse: x0.5; worse, better, worse: no row; worse: x0.5
    readings = [9, 8, 7, 6, 6, 6, 6, 5, 6, 6]
    assert factors(feedback, readings) == [1, 2, 2, 4, 4, 2, 2, 2, 2, 1]


def test_the_largest_is_the_best_in_mode_max(factors: Any) -> None:
    assert factors(Greedy(**HALF, mode="max", patience=0), [1, 2, 1, 3]) == [2, 4, 2, 4]


def test_bounds_are_kept_and_left_again(factors: Any) -> None:
    """In transformers the default lower bound of 1e-3 raises any LR below it to itself."""
    feedback = Greedy(**HALF, patience=0)
    assert factors(feedback, [9, 9, 9, 9, 9, 9, 8, 7]) == [2, 1, 0.5, 0.25, 0.125, 0.125, 0.25, 0.5]
    assert factors(Greedy(**HALF, patience=0), [9, 8, 7, 6, 7]) == [2, 4, 4, 4, 2]


def test_a_warmup_after_a_raise_and_a_cooldown_after_a_cut_are_left_out(factors: Any) -> None:
    feedback = Greedy(**HALF, patience=0, warmup=2, cooldown=1)
    # The 1 within the warmup never becomes the best: 8 still is an improvement on 9. Then 8.5 fails, 0 is left out.
    assert factors(feedback, [9, 1, 1, 8, 7, 7, 8.5, 0, 7.5]) == [2, 2, 2, 4, 4, 4, 2, 2, 4]


def test_the_mean_of_the_window_is_looked_at(factors: Any) -> None:
    feedback = Greedy(**HALF, patience=0, window=2)
    # means 4, 5, 4.5, 3
    assert factors(feedback, [4, 6, 3, 3]) == [2, 1, 0.5, 1]


def test_it_starts_over_after_so_many_cuts_at_the_bound(factors: Any) -> None:
    feedback = Greedy(**{**HALF, "min_factor": 0.5}, patience=0, reset=2)
    # The second cut at the bound starts over, and any reading is an improvement then.
    assert factors(feedback, [9, 9, 9, 9, 10, 10]) == [2, 1, 0.5, 1, 2, 1]


@given(
    readings=st.lists(st.floats(0, 10), max_size=60),
    patience=st.integers(0, 3),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    window=st.integers(1, 4),
    rest=st.integers(0, 2),
)
def test_an_independent_count_agrees(
    readings: list[float], patience: int, threshold_mode: Any, window: int, rest: int
) -> None:
    """The paper's Algorithm with its options, written as exponents of the factor over the whole series."""
    threshold, lowest, highest = 0.05, -4, 3
    exponent, best, rest_until, since, expected = 0, math.inf, -1, 0, []
    outcomes: list[bool] = []
    for index in range(len(readings)):
        recent = readings[max(0, index + 1 - window) : index + 1]
        mean = math.fsum(recent) / len(recent)
        if index <= rest_until:
            since = len(outcomes)
        else:
            better = mean < (best * (1 - threshold) if threshold_mode == "rel" else best - threshold)
            best = mean if better else best
            outcomes.append(better)
            row = outcomes[since:][-(patience + 1) :]
            if len(row) > patience and len(set(row)) == 1:
                exponent = min(highest, exponent + 1) if row[0] else max(lowest, exponent - 1)
                since, rest_until = len(outcomes), index + rest
        expected.append(exponent)
    feedback = Greedy(
        factor=0.5, patience=patience, threshold=threshold, threshold_mode=threshold_mode, window=window,
        cooldown=rest, warmup=rest, min_factor=2.0**lowest, max_factor=2.0**highest,
    )  # fmt: skip
    for reading, power in zip(readings, expected, strict=True):
        feedback.update(reading)
        assert feedback.factor == 2.0**power


def test_a_reading_that_is_not_finite_fails_and_stays_out_of_the_mean(factors: Any) -> None:
    feedback = Greedy(**HALF, patience=0, window=3)
    assert factors(feedback, [4, math.nan, 2]) == [2, 1, 2]


@given(readings=st.lists(st.floats(0, 2), min_size=1, max_size=30), at=st.integers(0, 30))
def test_it_resumes_from_its_state(readings: list[float], at: int) -> None:
    settings = {**HALF, "patience": 1, "window": 3, "cooldown": 1, "warmup": 1, "reset": 2}
    whole, first, second = Greedy(**settings), Greedy(**settings), Greedy(**settings)
    for reading in readings[:at]:
        first.update(reading)
    second.load_state_dict(first.state_dict())
    for reading in readings[at:]:
        second.update(reading)
    for reading in readings:
        whole.update(reading)
    assert second.state_dict() == whole.state_dict()


def test_its_description() -> None:
    feedback = Greedy(window=5, every="1%")
    assert feedback.describe() == (
        "greedy on train/loss (min, mean of 5): /0.95 after 11 improvements in a row, x0.95 after 11 failures"
    )
    assert feedback.lr_range == "the LR used may go down to 0.01x and up to 10x of the planned one"


def test_all_values_out_of_range_are_reported_at_once(wrong: Any) -> None:
    settings = {"factor": 0, "patience": -1, "window": 0, "cooldown": -1, "warmup": -1, "reset": 0, "threshold": -1}
    assert wrong(Greedy, **settings) == {f"feedback.{name}" for name in settings}
    assert wrong(Greedy, max_factor=0.5) == {"feedback.max_factor"}


@pytest.mark.parametrize("patience", [0, 2])
def test_a_falling_loss_reaches_the_upper_bound_and_a_rising_one_the_lower(patience: int, factors: Any) -> None:
    assert factors(Greedy(**HALF, patience=patience), [1 / n for n in range(1, 30)])[-1] == 4.0
    assert factors(Greedy(**HALF, patience=patience), [float(n) for n in range(1, 30)])[-1] == 0.125

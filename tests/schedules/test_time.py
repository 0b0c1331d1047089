"""Durations: their forms, their errors, and their conversion to steps."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.schedules import Duration, Horizon


@pytest.mark.parametrize(
    ("given_as", "value", "unit"),
    [
        (500, 500, "steps"),
        (np.int64(500), 500, "steps"),
        (500.0, 500, "steps"),
        ("500", 500, "steps"),
        ("500 steps", 500, "steps"),
        ("1 step", 1, "steps"),
        ("1e3 steps", 1000, "steps"),
        ("  7   STEPS ", 7, "steps"),
        (0, 0, "steps"),
        ("3 epochs", 3.0, "epochs"),
        ("3epochs", 3.0, "epochs"),
        ("0.5 epochs", 0.5, "epochs"),
        (".5 epoch", 0.5, "epochs"),
        ("10%", 0.1, "fraction"),
        ("29 %", 0.29, "fraction"),
        ("0.1%", 0.001, "fraction"),
        ("100%", 1.0, "fraction"),
        ("50_000 samples", 50_000, "samples"),
        ("1 sample", 1, "samples"),
        ("1e6samples", 1_000_000, "samples"),
        ("1_000", 1000, "steps"),
        ("1_0.5 epochs", 10.5, "epochs"),
    ],
)
def test_a_duration_is_steps_epochs_samples_or_a_share_of_the_run(given_as: object, value: float, unit: str) -> None:
    assert Duration.parse(given_as) == Duration(value, unit)


def test_a_duration_is_read_as_itself() -> None:
    duration = Duration(3, "epochs")
    assert Duration.parse(duration) is duration


JUNK = [
    *(0.1, 2.5, "2.5 steps", "0.1", "2.5 samples"),  # steps and samples are whole
    *(-1, -0.5, "-5 steps", "-10%"),
    *(math.nan, math.inf, -math.inf, "nan%", "inf steps", "1e999 epochs", 10**400),
    *(True, None, [], "", "%", "steps", "ten", "5 minutes", "5 % 3", "5 steps per epoch", "1,000"),
    *("_1", "1_", "1__0", "50k samples", "_ samples"),
]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk)[:20])
def test_anything_else_is_an_error_that_lists_the_four_forms(junk: object) -> None:
    with pytest.raises(ValueError, match=r"\(500\).*\(3 epochs\).*\(50_000 samples\).*\(10%\)"):
        Duration.parse(junk)


def test_an_unknown_unit_is_an_error() -> None:
    with pytest.raises(ValueError, match="steps, epochs, samples, fraction"):
        Duration(1, "minutes")


@pytest.mark.parametrize(
    ("duration", "steps", "steps_per_epoch", "expected"),
    [
        (7, 1000, 100, 7),
        (5000, 1000, 100, 5000),  # longer than the run: Schedule.check says so
        ("3 epochs", 1000, 100, 300),
        ("0.5 epochs", 1000, 25, 13),  # 12.5: half is rounded up
        ("0.1 epochs", 1000, 4, 0),
        ("10%", 1000, None, 100),
        ("10%", 5, None, 1),  # 0.5
        ("10%", 4, None, 0),
        ("14.5%", 100, None, 15),  # 14.5, which is 14.499999999999998 in binary
        ("29%", 100, None, 29),
        ("100%", 12345, None, 12345),
    ],
)
def test_durations_are_counted_in_whole_steps(
    duration: object, steps: int, steps_per_epoch: int | None, expected: int
) -> None:
    counted = Duration.parse(duration).steps(Horizon(steps, steps_per_epoch))
    assert counted == expected
    assert type(counted) is int


def test_epochs_need_their_length() -> None:
    with pytest.raises(ValueError, match="3 epochs cannot be counted in steps: the horizon has no steps_per_epoch"):
        Duration.parse("3 epochs").steps(Horizon(1000))


@pytest.mark.parametrize("text", ["500 steps", "1 step", "3 epochs", "1 epoch", "0.5 epochs", "10%", "0.1%", "33.3%"])
def test_a_duration_is_shown_as_it_is_written(text: str) -> None:
    assert str(Duration.parse(text)) == text


durations = st.one_of(
    st.builds(Duration, st.integers(0, 2**70), st.just("steps")),
    st.builds(Duration, st.floats(0, 1e300), st.sampled_from(["epochs", "fraction"])),
)


@given(durations)
def test_durations_round_trip(duration: Duration) -> None:
    assert Duration.parse(str(duration)) == duration


@given(st.decimals(0, 100, places=4), st.integers(1, 10**9))
@settings(max_examples=300)
def test_percents_are_rounded_half_up_as_they_are_written(percent: object, steps: int) -> None:
    exact = Fraction(str(percent)) / 100 * steps
    assert Duration.parse(f"{percent}%").steps(Horizon(steps)) == math.floor(exact + Fraction(1, 2))

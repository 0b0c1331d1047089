"""What a setting may be: the sentence says what the check holds to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lrflow.limits import Limit, number, one_of, outside, whole

LIMITS: dict[str, tuple[Limit, list[Any], list[Any]]] = {
    "a number above 0": (number(0, above=True), [1e-9, 3], [0, -1, math.nan, math.inf, True, "1", None]),
    "a number of at least 1": (number(1), [1, 1.5], [0.9]),
    "a number from 0 to 1": (number(0, 1), [0, 1], [1.1]),
    "a number above 0 and at most 1": (number(0, 1, above=True), [1], [0]),
    "a number of at least 0 and below 1": (number(0, 1, below=True), [0], [1]),
    "a number above 0 and below 1": (number(0, 1, above=True, below=True), [0.5], [0, 1]),
    "a whole number of at least 4, or null": (whole(4).or_null(), [4, None], [3, 4.0, False]),
    "a whole number above 0": (whole(1), [1], [0, None]),
    "a whole number from 0 to 256": (whole(0, 256), [0, 256], [-1, 257, 1.0, True]),
    "one of rel, abs": (one_of("rel", "abs"), ["rel"], ["re", None, 1]),
}


@pytest.mark.parametrize("expected", LIMITS)
def test_limits(expected: str) -> None:
    limit, good, bad = LIMITS[expected]
    assert limit.expected == expected
    assert [limit.holds(value) for value in good + bad] == [True] * len(good) + [False] * len(bad)


def test_what_is_outside_is_told_with_the_nearest_word() -> None:
    limits = {"how": one_of("rel", "abs"), "count": whole(1), "absent": whole(1)}
    (problem,) = outside(limits, {"how": "asb", "count": 2, "other": -1}, "group")
    assert (problem.key, problem.message, problem.hint) == (
        "group.how",
        "expected one of rel, abs",
        "did you mean abs?",
    )

"""What a setting may be: one sentence that a person reads, and the check that it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from lrflow.errors import Problem, did_you_mean


@dataclass(frozen=True)
class Limit:
    """What a setting may be.

    Args:
        expected: what is expected, as it stands after that word: `a number above 0`.
        holds: whether a value, of any type, is that.
        words: all that it may be, where these are a few words; the nearest is suggested.
    """

    expected: str
    holds: Callable[[Any], bool]
    words: tuple[str, ...] = ()

    def or_null(self) -> Limit:
        """The same, with None as another value."""
        return Limit(f"{self.expected}, or null", lambda value: value is None or self.holds(value), self.words)


def outside(limits: Mapping[str, Limit], values: Mapping[str, Any], key: str) -> list[Problem]:
    """The problems of settings that are not what they may be.

    Args:
        limits: by the name of a setting.
        values: what was given, by name; names without a limit are passed over.
        key: where they stand.
    """
    problems = []
    for name, limit in limits.items():
        if name in values and not limit.holds(value := values[name]):
            hint = did_you_mean(str(value), limit.words)
            problems.append(Problem(f"{key}.{name}", f"expected {limit.expected}", value, hint))
    return problems


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Limit:
    """A finite number from `low` (with `above`: above it) to `high` (with `below`: below it)."""
    first = f"above {low:g}" if above else f"of at least {low:g}"
    last = f"below {high:g}" if below else f"at most {high:g}"
    if math.isinf(high):
        text = f"a number {first}"
    else:
        text = f"a number {first} and {last}" if above or below else f"a number from {low:g} to {high:g}"
    return Limit(text, lambda value: between(value, low, high, above, below))


def whole(low: int) -> Limit:
    """A whole number that is `low` or more."""
    text = "a whole number above 0" if low == 1 else f"a whole number of at least {low}"
    return Limit(text, lambda value: is_whole(value) and value >= low)


def one_of(*words: str) -> Limit:
    """One of a few words."""
    return Limit(f"one of {', '.join(words)}", lambda value: value in words, words)


def between(value: Any, low: float, high: float, above: bool, below: bool) -> bool:
    """Whether a value is a finite number between two bounds; `above` and `below` leave the bounds themselves out."""
    if not is_number(value):
        return False
    return (low < value if above else low <= value) and (value < high if below else value <= high)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)

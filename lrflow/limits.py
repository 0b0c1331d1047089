"""Valid values of a setting: a check, with the sentence that the user reads when it fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from lrflow.errors import Problem, did_you_mean

FROM = "from:"
"""Beginning of a value that is taken from another run: `optimizer.lr=from:outputs/RUN`."""


@dataclass(frozen=True)
class Limit:
    """The valid values of a setting.

    Args:
        expected: text that follows "expected" in a message: `a number above 0`.
        holds: function that returns whether a value of any type is valid.
        words: the valid values, if they are a few words; a message suggests the nearest.
        json: JSON schema of the valid values; it may allow others too, where JSON cannot say it. Empty: any value.
    """

    expected: str
    holds: Callable[[Any], bool]
    words: tuple[str, ...] = ()
    json: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def or_null(self) -> Limit:
        """Return the limit that also allows None."""
        json = {"anyOf": [self.json, {"type": "null"}]} if self.json else {}
        return Limit(f"{self.expected}, or null", lambda value: value is None or self.holds(value), self.words, json)


def outside(limits: Mapping[str, Limit], values: Mapping[str, Any], key: str) -> list[Problem]:
    """Return a problem for each setting outside its limit.

    Args:
        limits: limits by name of a setting.
        values: settings by name; names without a limit are ignored.
        key: config key under which the settings stand.
    """
    problems = []
    for name, limit in limits.items():
        if name in values and not limit.holds(value := values[name]):
            hint = did_you_mean(str(value), limit.words)
            problems.append(Problem(f"{key}.{name}", f"expected {limit.expected}", value, hint))
    return problems


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Limit:
    """Return the limit to finite numbers from `low` to `high`; `above` excludes `low`, `below` excludes `high`."""
    first = f"above {low:g}" if above else f"of at least {low:g}"
    last = f"below {high:g}" if below else f"at most {high:g}"
    if math.isinf(high):
        text = f"a number {first}"
    else:
        text = f"a number {first} and {last}" if above or below else f"a number from {low:g} to {high:g}"
    json: dict[str, Any] = {"type": "number", "exclusiveMinimum" if above else "minimum": low}
    if not math.isinf(high):
        json["exclusiveMaximum" if below else "maximum"] = high
    return Limit(text, lambda value: between(value, low, high, above, below), json=json)


def whole(low: int, high: int | None = None) -> Limit:
    """Return the limit to whole numbers of at least `low`, and at most `high` if it is given."""
    json = {"type": "integer", "minimum": low}
    if high is not None:
        text = f"a whole number from {low} to {high}"
        return Limit(text, lambda value: is_whole(value) and low <= value <= high, json={**json, "maximum": high})
    text = "a whole number above 0" if low == 1 else f"a whole number of at least {low}"
    return Limit(text, lambda value: is_whole(value) and value >= low, json=json)


TEXT = Limit("text", lambda value: isinstance(value, str) and bool(value), json={"type": "string", "minLength": 1})
"""A text that is not empty, such as a name or a path."""

MOST_PROCESSES = 256
"""The most processes that one setting starts on a machine, such as the workers of a loader."""


def one_of(*words: str) -> Limit:
    """Return the limit to a few words."""
    return Limit(f"one of {', '.join(words)}", lambda value: value in words, words, {"enum": [*words]})


def between(value: Any, low: float, high: float, above: bool, below: bool) -> bool:
    """Return whether a value is a finite number from `low` to `high`; `above` and `below` exclude the bounds."""
    if not is_number(value):
        return False
    return (low < value if above else low <= value) and (value < high if below else value <= high)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; False for booleans."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; False for booleans."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)

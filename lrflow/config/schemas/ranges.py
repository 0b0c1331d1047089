"""The ranges of an optimizer's arguments, which its traits name: their checks and JSON schemas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from lrflow.config.diagnostics import problem_of
from lrflow.config.schemas import types as f
from lrflow.errors import Problem
from lrflow.limits import is_number, number
from lrflow.optimizers.traits import Range

_PAIR = f.array(number(0, above=True).json, 2, 2)

_KINDS: dict[str, Any] = {
    "count": f.Count,
    "positive": f.Positive,
    "not_negative": f.NotNegative,
    "not_positive": Annotated[
        float,
        f.expects(
            "a number of at most 0",
            lambda value: is_number(value) and value <= 0,
            {"type": "number", "maximum": 0},
        ),
    ],
    "share": f.Fraction,
    "below_one": f.BelowOne,
    "at_least_one": Annotated[float, f.number(1)],
    "rising": Annotated[
        Any,
        f.expects(
            "two numbers above 0, of which the second is not below the first",
            lambda value: _is_pair(value) and 0 < value[0] <= value[1],
            _PAIR,
        ),
    ],
    "around_one": Annotated[
        Any,
        f.expects(
            "two numbers, one between 0 and 1 and one above 1",
            lambda value: _is_pair(value) and 0 < value[0] < 1 < value[1],
            _PAIR,
        ),
    ],
    "above_one": Annotated[
        float,
        f.expects(
            "a number above 1, or inf",
            lambda value: value == math.inf or (is_number(value) and value > 1),
            number(1, above=True).json,
        ),
    ],
}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))


def check_ranges(arguments: Mapping[str, Any], ranges: Mapping[str, Range], key: str) -> Iterator[Problem]:
    """Yield a problem for each argument outside its range.

    Args:
        arguments: arguments of an optimizer by name.
        ranges: ranges from its traits.
        key: config key of the optimizer.
    """
    for name in (name for name in ranges if name in arguments):
        try:
            TypeAdapter(field_of(ranges[name])).validate_python(arguments[name])
        except ValidationError as error:
            (details, *_) = error.errors(include_url=False)
            details["loc"] = (*key.split("."), name)
            yield problem_of(details, {})


def field_of(limits: Range) -> Any:
    """Return the field type of a range."""
    if isinstance(limits, str):
        return _KINDS[limits]
    words = [word for word in limits if word is not None]
    if None in limits:
        expected = f"{', '.join(words)}, or null for none"
        return Annotated[Any, f.expects(expected, lambda value: value in limits, {"enum": [*limits]})]
    return Annotated[Any, f.one_of(*words)]

"""Ranges of single optimizers' arguments, as their traits give them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from lrflow.config import fields as f
from lrflow.config.messages import problem_of
from lrflow.errors import Problem
from lrflow.limits import is_number
from lrflow.optimizers.traits import Range

_KINDS: dict[str, Any] = {
    "count": f.Count,
    "positive": f.Positive,
    "not_negative": f.NotNegative,
    "above_one": Annotated[
        float,
        f.expects("a number above 1, or inf", lambda value: value == math.inf or (is_number(value) and value > 1)),
    ],
}


def check_ranges(arguments: Mapping[str, Any], ranges: Mapping[str, Range], key: str) -> Iterator[Problem]:
    """Arguments that would end in a crash or in no training at all.

    Args:
        arguments: of an optimizer, by name.
        ranges: of its traits.
        key: where the optimizer stands.
    """
    for name in (name for name in ranges if name in arguments):
        try:
            TypeAdapter(_field(ranges[name])).validate_python(arguments[name])
        except ValidationError as error:
            (details, *_) = error.errors(include_url=False)
            details["loc"] = (*key.split("."), name)
            yield problem_of(details, {})


def _field(limits: Range) -> Any:
    if isinstance(limits, str):
        return _KINDS[limits]
    words = [word for word in limits if word is not None]
    if None in limits:
        return Annotated[Any, f.expects(f"{', '.join(words)}, or null for none", lambda value: value in limits)]
    return Annotated[Any, f.one_of(*words)]

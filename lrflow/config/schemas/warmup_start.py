"""The field `schedule.warmup_start`: a level of a schedule, which may be above the peak."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic_core import PydanticCustomError

from lrflow import limits
from lrflow.config.schemas import types as f
from lrflow.config.schemas.field_checks import any_of, pattern
from lrflow.schedules import levels

START = f"{f.LEVEL}; above 1, a multiple of the peak, from which the warmup falls"


def _start(value: Any) -> Any:
    if limits.between(value, 1, math.inf, False, True):
        return float(value)
    try:
        return f.level(value)
    except PydanticCustomError:
        raise PydanticCustomError("expected", "expected {sentence}", {"sentence": START}) from None


Start = Annotated[
    float | str,
    f.BeforeValidator(_start, any_of(limits.number(0).json, f.SHARE, pattern(levels.TEXT, any_case=True))),
]

"""Numbers of steps, samples and their like: checks of what is passed, and their text."""

from __future__ import annotations

import math
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from lrflow.imports import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
else:
    Floats = Any


def positive(name: str, value: float) -> float:
    """Return `value` as a float; raise ValueError unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} is a number above 0, not {value!r}")
    return float(value)


def whole(name: str, value: int) -> int:
    """Return `value` as an int; raise ValueError unless it is a whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is a whole number >= 1, not {value!r}")
    return int(value)


def plain(number: Decimal) -> str:
    """The shortest way to write a number without an exponent: 10, 0.5."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def is_finite(number: float) -> bool:
    """Whether the number is a finite float; whole numbers of hundreds of digits are not."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False

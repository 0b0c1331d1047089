"""Durations: a stretch of training as a person says it, `500 steps`, `3 epochs` or `10%` of the run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from lrflow.schedules.horizons import Horizon

Unit = Literal["steps", "epochs", "fraction"]

FORMS = "write a number of steps (500), of epochs (3 epochs) or a share of the run (10%)"

_TEXT = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?)\s*(steps?|epochs?|%|)\s*", re.IGNORECASE)
_UNITS: dict[str, Unit] = {"": "steps", "step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs"}


@dataclass(frozen=True)
class Duration:
    """A stretch of training, in the unit it was given in.

    Args:
        value: how many; finite, not negative, whole where the unit is steps, 0.1 for 10%.
        unit: `steps`, `epochs` or `fraction` (of the run).

    Raises:
        ValueError: the value is not one that the unit can have.
    """

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in ("steps", "epochs", "fraction"):
            raise ValueError(f"the unit of a duration is steps, epochs or fraction, not {self.unit!r}")
        if isinstance(self.value, bool) or not isinstance(self.value, Real) or not _finite(self.value):
            raise ValueError(f"a duration is a finite number, not {self.value!r}: {FORMS}")
        if self.value < 0:
            raise ValueError(f"a duration cannot be negative: {FORMS}")
        if self.unit == "steps" and self.value != int(self.value):
            raise ValueError(f"{self.value:g} is not a whole number of steps: {FORMS}")
        object.__setattr__(self, "value", int(self.value) if self.unit == "steps" else float(self.value))

    @classmethod
    def parse(cls, given: DurationLike) -> Duration:
        """Reads a duration.

        Args:
            given: `500`, `"500"`, `"500 steps"`, `"3 epochs"`, `"0.5 epochs"`, `"10%"`, or a Duration.

        Raises:
            ValueError: it is none of these; the message says the three forms.
        """
        if isinstance(given, Duration):
            return given
        if isinstance(given, Integral | float) and not isinstance(given, bool):
            return cls(float(given) if isinstance(given, float) else int(given), "steps")
        match = _TEXT.fullmatch(given) if isinstance(given, str) else None
        if match is None:
            raise ValueError(f"{given!r} is not a duration: {FORMS}")
        number, unit = Decimal(match.group(1)), match.group(2).lower()
        if unit == "%":
            return cls(float(number / 100), "fraction")  # shifted in decimal: 29% is 0.29, and not 29 * 0.01
        return cls(int(number) if number == int(number) else float(number), _UNITS[unit])

    def steps(self, horizon: Horizon) -> int:
        """This duration in optimizer steps of a run, rounded half up.

        Raises:
            ValueError: it is in epochs and the horizon does not know how many steps an epoch has.
        """
        if self.unit == "steps":
            return int(self.value)
        if self.unit == "fraction":
            whole = horizon.steps
        elif horizon.steps_per_epoch is not None:
            whole = horizon.steps_per_epoch
        else:
            raise ValueError(f"{self} cannot be counted in steps: the horizon has no steps_per_epoch")
        # Decimal, because binary floats round what a person wrote: 0.145 * 100 < 14.5.
        return int((Decimal(repr(self.value)) * whole).to_integral_value(ROUND_HALF_UP))

    def __mul__(self, times: int) -> Duration:
        value = Decimal(repr(self.value)) * times  # in decimal: 3 times 10% is 30%, and not 30.000000000000004%
        return Duration(int(value) if self.unit == "steps" else float(value), self.unit)

    def __str__(self) -> str:
        if self.unit == "fraction":
            return f"{_plain(Decimal(repr(self.value)) * 100)}%"
        number = _plain(Decimal(repr(self.value)))
        return f"{number} {self.unit.removesuffix('s') if self.value == 1 else self.unit}"


DurationLike: TypeAlias = Duration | int | float | str


def _plain(number: Decimal) -> str:
    """The shortest way to write a number without an exponent: 10, 0.5."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _finite(number: float) -> bool:
    """Whether a float can hold the number; a whole number of hundreds of digits is more than that."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False

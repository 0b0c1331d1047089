"""Durations: a stretch of training as a person says it, `500 steps`, `3 epochs`, `50_000 samples`, `10%` of the run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import ROUND_HALF_UP, Decimal
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

from lrflow.schedules.horizons import Horizon

Unit = Literal["steps", "epochs", "samples", "fraction"]

FORMS = "write a number of steps (500), of epochs (3 epochs), of samples (50_000 samples) or a share of the run (10%)"

_NUMBER = r"(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?"
_TEXT = re.compile(rf"\s*({_NUMBER})\s*(steps?|epochs?|samples?|%|)\s*", re.IGNORECASE)
_UNITS: dict[str, Unit] = {"": "steps", "step": "steps", "epoch": "epochs", "sample": "samples"}
_WHOLE = ("steps", "samples")


@dataclass(frozen=True)
class Duration:
    """A stretch of training, in the unit it was given in.

    Args:
        value: how many; finite, not negative, whole where the unit is steps or samples, 0.1 for 10%.
        unit: `steps`, `epochs`, `samples` (what the run sees on all devices together: examples, or the steps of an
            environment) or `fraction` (of the run).

    Raises:
        ValueError: the value is not one that the unit can have.
    """

    value: float
    unit: Unit
    written: int | float | str | None = field(default=None, compare=False, repr=False)
    """As it was given to `parse`; None: it was not parsed."""

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"the unit of a duration is {', '.join(get_args(Unit))}, not {self.unit!r}")
        if isinstance(self.value, bool) or not isinstance(self.value, Real) or not _finite(self.value):
            raise ValueError(f"a duration is a finite number, not {self.value!r}: {FORMS}")
        if self.value < 0:
            raise ValueError(f"a duration cannot be negative: {FORMS}")
        if self.unit in _WHOLE and self.value != int(self.value):
            raise ValueError(f"{self.value:g} is not a whole number of {self.unit}: {FORMS}")
        object.__setattr__(self, "value", int(self.value) if self.unit in _WHOLE else float(self.value))

    @classmethod
    def parse(cls, given: DurationLike) -> Duration:
        """Reads a duration.

        Args:
            given: `500`, `"500"`, `"500 steps"`, `"3 epochs"`, `"0.5 epochs"`, `"50_000 samples"`, `"1e6 samples"`,
                `"10%"`, or a Duration.

        Raises:
            ValueError: it is none of these; the message says the four forms.
        """
        if isinstance(given, Duration):
            return given
        if isinstance(given, Integral | float) and not isinstance(given, bool):
            steps = float(given) if isinstance(given, float) else int(given)
            return cls(steps, "steps", steps)
        match = _TEXT.fullmatch(given) if isinstance(given, str) else None
        if match is None:
            raise ValueError(f"{given!r} is not a duration: {FORMS}")
        number, unit = Decimal(match.group(1)), match.group(2).lower()
        if unit == "%":
            return cls(float(number / 100), "fraction", given)  # shifted in decimal: 29% is 0.29, and not 29 * 0.01
        return cls(int(number) if number == int(number) else float(number), _UNITS[unit.removesuffix("s")], given)

    @property
    def whole_epochs(self) -> int | None:
        """Of a duration in whole epochs, how many: their ends can be waited for, however long they are."""
        return int(self.value) if self.unit == "epochs" and float(self.value).is_integer() else None

    def steps(self, horizon: Horizon) -> int:
        """This duration in optimizer steps of a run, rounded half up.

        Raises:
            ValueError: it is in epochs or in samples, and the horizon does not know how many steps an epoch has, or
                how many samples a step.
        """
        if self.unit == "steps":
            return int(self.value)
        # Decimal, because binary floats round what a person wrote: 0.145 * 100 < 14.5.
        value = Decimal(repr(self.value))
        if self.unit == "fraction":
            steps = value * horizon.steps
        elif self.unit == "epochs" and horizon.steps_per_epoch is not None:
            steps = value * horizon.steps_per_epoch
        elif self.unit == "samples" and horizon.samples_per_step is not None:
            steps = value / Decimal(repr(horizon.samples_per_step))
        else:
            lacking = "steps_per_epoch" if self.unit == "epochs" else "samples_per_step"
            raise ValueError(f"{self} cannot be counted in steps: the horizon has no {lacking}")
        return int(steps.to_integral_value(ROUND_HALF_UP))

    def __mul__(self, times: int) -> Duration:
        value = Decimal(repr(self.value)) * times  # in decimal: 3 times 10% is 30%, and not 30.000000000000004%
        return Duration(int(value) if self.unit in _WHOLE else float(value), self.unit)

    def __str__(self) -> str:
        if self.unit == "fraction":
            return f"{_plain(Decimal(repr(self.value)) * 100)}%"
        number = _plain(Decimal(repr(self.value)))
        return f"{number} {self.unit.removesuffix('s') if self.value == 1 else self.unit}"


DurationLike: TypeAlias = Duration | int | float | str


def durations_in(part: Any) -> Iterator[Duration]:
    """Every duration in a schedule or any part of one."""
    if isinstance(part, Duration):
        yield part
    elif isinstance(part, tuple | list):
        for item in part:
            yield from durations_in(item)
    elif is_dataclass(part):
        for one in fields(part):
            yield from durations_in(getattr(part, one.name, None))


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

"""Durations (`500 steps`, `3 epochs`, `10%`); a duration keeps the unit it was given in.

Only a horizon converts it to optimizer steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

from lrflow.schedules.horizon import LATER as LATER
from lrflow.schedules.horizon import MOST_STEPS as MOST_STEPS
from lrflow.schedules.horizon import ROUNDINGS as ROUNDINGS
from lrflow.schedules.horizon import Horizon as Horizon
from lrflow.schedules.horizon import Phase as Phase
from lrflow.schedules.horizon import TooLongError as TooLongError
from lrflow.schedules.horizon import steps_within as steps_within
from lrflow.schedules.numbers import Floats as Floats
from lrflow.schedules.numbers import is_finite, plain

Unit = Literal["steps", "epochs", "samples", "fraction"]

FORMS = "write a number of steps (500), of epochs (3 epochs), of samples (50_000 samples) or a share of the run (10%)"

_NUMBER = r"(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?"
TEXT = rf"\s*({_NUMBER})\s*(steps?|epochs?|samples?|%|)\s*"
"""Regular expression of a duration that is a text, in any case."""

_TEXT = re.compile(TEXT, re.IGNORECASE)
_UNITS: dict[str, Unit] = {"": "steps", "step": "steps", "epoch": "epochs", "sample": "samples"}
_WHOLE = ("steps", "samples")


@dataclass(frozen=True)
class Duration:
    """A length of training, in the unit it was given in.

    Args:
        value: the amount; finite, not negative, whole if the unit is steps or samples; 0.1 for 10%.
        unit: `steps`, `epochs`, `samples` (seen on all devices together: examples, or steps of an environment) or
            `fraction` (of the run).

    Raises:
        ValueError: the value does not fit the unit.
    """

    value: float
    unit: Unit
    written: int | float | str | None = field(default=None, compare=False, repr=False)
    """What was passed to `parse`; None if the duration was not parsed."""

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"the unit of a duration is {', '.join(get_args(Unit))}, not {self.unit!r}")
        if isinstance(self.value, bool) or not isinstance(self.value, Real) or not is_finite(self.value):
            raise ValueError(f"a duration is a finite number: {FORMS}")
        if self.value < 0:
            raise ValueError(f"a duration cannot be negative: {FORMS}")
        if self.unit in _WHOLE and self.value != int(self.value):
            raise ValueError(f"{self.value:g} is not a whole number of {self.unit}: {FORMS}")
        object.__setattr__(self, "value", int(self.value) if self.unit in _WHOLE else float(self.value))

    @classmethod
    def parse(cls, given: DurationLike) -> Duration:
        """Parse a duration.

        Args:
            given: `500`, `"500"`, `"500 steps"`, `"3 epochs"`, `"0.5 epochs"`, `"50_000 samples"`, `"1e6 samples"`,
                `"10%"`, or a Duration.

        Raises:
            ValueError: it is none of these; the message lists the four forms.
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
            return cls(float(number / 100), "fraction", given)  # divided as a Decimal, so that 29% is exactly 0.29
        return cls(int(number) if number == int(number) else float(number), _UNITS[unit.removesuffix("s")], given)

    @property
    def whole_epochs(self) -> int | None:
        """The number of epochs if this is a whole number of them, else None. Such a duration needs no horizon."""
        return int(self.value) if self.unit == "epochs" and float(self.value).is_integer() else None

    def steps(self, horizon: Horizon, start: int = 0) -> int:
        """Return this duration in optimizer steps of a run, rounded half up unless the horizon rounds otherwise.

        Args:
            horizon: length of the run.
            start: step from which it is counted, which matters where the batch changes over the run.

        Raises:
            ValueError: it is in epochs or samples, and the horizon does not know the steps per epoch or the samples per
                step.
        """
        return int(self.exact(horizon, start).to_integral_value(ROUNDINGS[horizon.rounding]))

    def steps_at_end(self, horizon: Horizon) -> int:
        """Return this duration in steps before the end of a run; raises as `steps` does."""
        batch, unit = horizon.batch, self.unit
        if batch is None or unit in ("steps", "fraction"):
            return self.steps(horizon)
        value, last = Fraction(repr(self.value)), horizon.steps
        if unit == "samples":
            start = batch.step_of_samples(max(batch.samples(last) - value, Fraction(0)))
        else:
            start = batch.step_of_epochs(max(batch.epochs(last) - value, Fraction(0)))
        return int(_decimal(last - start).to_integral_value(ROUNDINGS[horizon.rounding]))

    def interval(self, horizon: Horizon) -> int:
        """Return this duration in steps, for something that is repeated; raises as `steps` does.

        Raises:
            ValueError: it is in epochs or samples, and the batch changes over the run.
        """
        if horizon.batch is not None and self.unit in ("epochs", "samples") and self.value:
            raise ValueError(f"{self} is no fixed number of steps, since schedule.batch changes the batch")
        return self.steps(horizon)

    def exact(self, horizon: Horizon, start: int = 0) -> Decimal:
        """Return this duration in optimizer steps of a run, without rounding; arguments and errors as of `steps`."""
        # Decimal, because binary floats change what was written: 0.145 * 100 < 14.5.
        value = Decimal(repr(self.value))
        if self.unit == "steps":
            return value
        if self.unit == "fraction":
            steps = value * horizon.steps
        elif horizon.batch is not None:
            batch = horizon.batch
            if self.unit == "samples":
                stop = batch.step_of_samples(batch.samples(start) + Fraction(repr(self.value)))
            else:
                stop = batch.step_of_epochs(batch.epochs(start) + Fraction(repr(self.value)))
            steps = _decimal(stop - start)
        elif self.unit == "epochs" and horizon.steps_per_epoch is not None:
            steps = value * horizon.steps_per_epoch
        elif self.unit == "samples" and horizon.samples_per_step is not None:
            steps = value / Decimal(repr(horizon.samples_per_step))
        else:
            missing = "steps_per_epoch" if self.unit == "epochs" else "samples_per_step"
            raise ValueError(f"{self} cannot be counted in steps: the horizon has no {missing}")
        return steps

    def __mul__(self, times: int) -> Duration:
        value = Decimal(repr(self.value)) * times  # Decimal: 3 times 10% is 30%, not 30.000000000000004%
        return Duration(int(value) if self.unit in _WHOLE else float(value), self.unit)

    def __str__(self) -> str:
        if self.unit == "fraction":
            return f"{plain(Decimal(repr(self.value)) * 100)}%"
        number = plain(Decimal(repr(self.value)))
        return f"{number} {self.unit.removesuffix('s') if self.value == 1 else self.unit}"


def _decimal(number: Fraction) -> Decimal:
    return Decimal(number.numerator) / Decimal(number.denominator)


DurationLike: TypeAlias = Duration | int | float | str


@dataclass(frozen=True)
class Periods:
    """Periods of equal length from the start of a run, of which one ends with a step.

    Args:
        every: their length, above 0.
        horizon: length of the run.
    """

    every: Duration
    horizon: Horizon

    @cached_property
    def _steps(self) -> int:
        return max(1, self.every.steps(self.horizon))

    def end_with(self, steps: int) -> bool:
        """Whether a period ends with the last of these steps, the first ones of the run; at least one step."""
        batch, unit = self.horizon.batch, self.every.unit
        if batch is None or unit in ("steps", "fraction"):
            return steps % self._steps == 0
        passed = batch.samples if unit == "samples" else batch.epochs
        length = Fraction(repr(self.every.value))
        return passed(steps) // length > passed(steps - 1) // length


def durations_in(part: Any) -> Iterator[Duration]:
    """Yield every duration in a schedule or in any part of one."""
    if isinstance(part, Duration):
        yield part
    elif isinstance(part, tuple | list):
        for item in part:
            yield from durations_in(item)
    elif is_dataclass(part):
        for one in fields(part):
            yield from durations_in(getattr(part, one.name, None))

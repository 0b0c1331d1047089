"""Durations (`500 steps`, `3 epochs`, `10%`), the horizon of a run, and the phase of it that a shape fills.

A duration keeps the unit it was given in. Only a horizon converts it to optimizer steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from lrflow.imports import np
from lrflow.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
else:
    Floats = Any

LATER = {"later": True}
"""Marks fields that were added after the first plans were written: a spec omits them at their default, so that the
fingerprints of existing plans do not change."""


MOST_STEPS = 10**12
"""Most optimizer steps of a run: at 1000 steps per second they take 30 years."""

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
        if isinstance(self.value, bool) or not isinstance(self.value, Real) or not _finite(self.value):
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

    def steps(self, horizon: Horizon) -> int:
        """Return this duration in optimizer steps of a run, rounded half up unless the horizon rounds otherwise.

        Raises:
            ValueError: it is in epochs or samples, and the horizon does not know the steps per epoch or the samples per
                step.
        """
        return int(self.exact(horizon).to_integral_value(ROUNDINGS[horizon.rounding]))

    def exact(self, horizon: Horizon) -> Decimal:
        """Return this duration in optimizer steps of a run, without rounding; raises as `steps` does."""
        # Decimal, because binary floats change what was written: 0.145 * 100 < 14.5.
        value = Decimal(repr(self.value))
        if self.unit == "steps":
            return value
        if self.unit == "fraction":
            steps = value * horizon.steps
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
            return f"{_plain(Decimal(repr(self.value)) * 100)}%"
        number = _plain(Decimal(repr(self.value)))
        return f"{number} {self.unit.removesuffix('s') if self.value == 1 else self.unit}"


DurationLike: TypeAlias = Duration | int | float | str


ROUNDINGS = {"nearest": ROUND_HALF_UP, "up": ROUND_CEILING, "down": ROUND_FLOOR}
"""How a duration becomes a whole number of steps, by name."""


class TooLongError(ValueError):
    """Raised for a run of more than `MOST_STEPS` steps."""


@dataclass(frozen=True)
class Horizon:
    """How long a run is.

    Args:
        steps: optimizer steps of the whole run, after gradient accumulation and over all devices together; >= 1.
        steps_per_epoch: optimizer steps per epoch, >= 1; None: unknown, then durations in epochs are errors.
        samples_per_step: samples per optimizer step on all devices together, above 0: examples, or steps of an
            environment; None: unknown, then durations in samples are errors.

    Raises:
        ValueError: steps are not a whole number >= 1, or samples are not a number above 0.
        TooLongError: there are more than `MOST_STEPS` steps.
    """

    rounding: ClassVar[str] = "nearest"
    """How durations are rounded, a name of `ROUNDINGS`; a schedule may round in its own way, see `rounding_to`."""

    steps: int
    steps_per_epoch: int | None = None
    samples_per_step: float | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", _whole("steps", self.steps))
        if self.steps > MOST_STEPS:
            raise TooLongError(f"the run would have more than {MOST_STEPS:,} optimizer steps")
        if self.steps_per_epoch is not None:
            object.__setattr__(self, "steps_per_epoch", _whole("steps_per_epoch", self.steps_per_epoch))
        if self.samples_per_step is not None:
            object.__setattr__(self, "samples_per_step", _positive("samples_per_step", self.samples_per_step))

    @property
    def epochs(self) -> float:
        """The length of the run in epochs, fractional where `max_steps` cuts one short.

        Raises:
            ValueError: the steps of an epoch are unknown.
        """
        if self.steps_per_epoch is None:
            raise ValueError("the horizon has no steps_per_epoch, so the run has no length in epochs")
        return self.steps / self.steps_per_epoch

    def of_every(self, every: int) -> Horizon:
        """Return this length in the steps of an optimizer that steps at every `every`-th step of the run.

        The steps that are left over at the end of the run are none of its steps. An epoch may have a fraction of one,
        so that durations in epochs keep their length.
        """
        samples = None if self.samples_per_step is None else self.samples_per_step * every
        own = Horizon(max(self.steps // every, 1), None, samples)
        if self.steps_per_epoch is not None:  # past the check of a run's own length, which has whole steps
            object.__setattr__(own, "steps_per_epoch", Decimal(self.steps_per_epoch) / every)
        return own

    def rounding_to(self, rounding: str) -> Horizon:
        """Return this horizon with another rounding of durations to whole steps, which is no part of a run's length."""
        if rounding == self.rounding:
            return self
        kind = next(kind for kind in (Horizon, _RoundingUp, _RoundingDown) if kind.rounding == rounding)
        other = kind(self.steps, None, self.samples_per_step)
        object.__setattr__(other, "steps_per_epoch", self.steps_per_epoch)  # a fraction in an optimizer's own steps
        return other

    def at_least(self, steps: int) -> Horizon:
        """Return this horizon, or one of so many steps if that is longer."""
        if steps <= self.steps:
            return self
        longer = type(self)(steps, None, self.samples_per_step)
        object.__setattr__(longer, "steps_per_epoch", self.steps_per_epoch)
        return longer

    def same_length(self, other: Horizon) -> bool:
        """Whether both runs have the same steps and steps per epoch; samples per step may differ."""
        return (self.steps, self.steps_per_epoch) == (other.steps, other.steps_per_epoch)

    @classmethod
    def count(
        cls,
        examples: int | None = None,
        *,
        batches: int | None = None,
        batch_size: int = 1,
        drop_last: bool = False,
        devices: int = 1,
        accumulate: int = 1,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        limit_batches: int | float = 1.0,
        max_samples: int | None = None,
        samples_per_batch: float | None = None,
    ) -> Horizon:
        """Count the optimizer steps that a Lightning Trainer will make.

        Args:
            examples: examples in the training set, split among the devices in equal, padded shards; or
            batches: batches per epoch on one device, if the loader already exists. If neither is given, an epoch ends
                after `limit_batches` if that is a whole number; else its end is unknown and `max_epochs` has no effect.
            batch_size: examples in one device's batch.
            drop_last: whether the incomplete last batch of an epoch is left out.
            devices: processes that share an epoch's examples.
            accumulate: batches whose gradients are accumulated per optimizer step; the last step of an epoch may have
                fewer.
            max_steps: optimizer steps after which the run ends; None or -1 for no limit.
            limit_batches: most batches used per epoch: a whole number of them, or a float share.
            max_samples: most samples that the run sees on all devices together; None for no limit.
            samples_per_batch: samples per batch of one device, counting every batch as full; None: `batch_size` if
                `examples` is given, else unknown.

        Raises:
            ValueError: the run would make no step or never end, or an argument is out of range.
        """
        if examples is not None and batches is not None:
            raise ValueError("count a horizon from examples or from batches, one of the two")
        for name, value in {"batch_size": batch_size, "devices": devices, "accumulate": accumulate}.items():
            _whole(name, value)
        if examples is not None:
            samples_per_batch = samples_per_batch or batch_size
            shard = math.ceil(examples / devices)
            batches = shard // batch_size if drop_last else math.ceil(shard / batch_size)
            if batches == 0:
                raise ValueError(
                    f"no batch in an epoch: {counted(examples, 'example')} on {counted(devices, 'device')} "
                    f"in batches of {batch_size}" + (", the incomplete last one dropped" if drop_last else "")
                )
        if batches is None and not isinstance(limit_batches, float):
            batches = limit_batches
        steps_per_epoch = None
        if batches is not None:
            used = int(batches * limit_batches) if isinstance(limit_batches, float) else min(batches, limit_batches)
            if used <= 0:
                raise ValueError(
                    f"no batch in an epoch: {counted(batches, 'batch')}, and limit_batches={limit_batches} leaves none"
                )
            steps_per_epoch = math.ceil(used / accumulate)
        samples_per_step = samples_per_batch * devices * accumulate if samples_per_batch else None

        limits = []
        if max_epochs is not None and max_epochs != -1 and steps_per_epoch is not None:
            limits.append(_whole("max_epochs", max_epochs) * steps_per_epoch)
        if max_steps is not None and max_steps != -1:
            limits.append(_whole("max_steps", max_steps))
        if max_samples is not None:
            limits.append(steps_within(max_samples, samples_per_step))
        if not limits:
            raise ValueError("a run without end has no horizon: give max_epochs, max_steps or max_samples")
        return cls(min(limits), steps_per_epoch, samples_per_step)


@dataclass(frozen=True)
class _RoundingUp(Horizon):
    """A horizon that rounds durations up."""

    rounding: ClassVar[str] = "up"


@dataclass(frozen=True)
class _RoundingDown(Horizon):
    """A horizon that rounds durations down."""

    rounding: ClassVar[str] = "down"


@dataclass(frozen=True)
class Phase:
    """The stretch [start, stop) of a run that a shape fills.

    Args:
        start: the step at which the shape begins, at its peak: the end of the warmup.
        stop: the step at which it ends: the start of the cooldown, or the end of the run.
        horizon: the whole run, for durations that are counted from its start.
    """

    start: int
    stop: int
    horizon: Horizon

    @property
    def steps(self) -> int:
        """The length of the phase in steps; 0 if the cooldown starts where the warmup ends."""
        return self.stop - self.start

    def elapsed(self, step: Floats) -> Floats:
        """Steps since the start of the phase, 0 before it and the whole phase after it."""
        return np.clip(step, self.start, self.stop) - self.start

    def progress(self, step: Floats) -> Floats:
        """The share of the phase that has elapsed at each step, in [0, 1]."""
        return self.elapsed(step) / max(self.steps, 1)


def steps_within(max_samples: int, samples_per_step: float | None) -> int:
    """Return how many optimizer steps see at most `max_samples` samples on all devices together.

    Raises:
        ValueError: one step already sees more, or the samples per step are unknown.
    """
    if samples_per_step is None:
        raise ValueError("samples cannot be counted in steps: the samples per optimizer step are unknown")
    steps = int(Decimal(_whole("max_samples", max_samples)) / Decimal(repr(samples_per_step)))
    if steps == 0:
        raise ValueError(f"an optimizer step sees {samples_per_step:g} samples, so {max_samples} are less than a step")
    return steps


def _positive(name: str, value: float) -> float:
    """Return `value` as a float; raise ValueError unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} is a number above 0, not {value!r}")
    return float(value)


def _whole(name: str, value: int) -> int:
    """Return `value` as an int; raise ValueError unless it is a whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is a whole number >= 1, not {value!r}")
    return int(value)


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


def _plain(number: Decimal) -> str:
    """The shortest way to write a number without an exponent: 10, 0.5."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _finite(number: float) -> bool:
    """Whether the number is a finite float; whole numbers of hundreds of digits are not."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False

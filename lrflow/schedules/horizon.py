"""The horizon of a run, which is how long it is in optimizer steps, and the phase of it that a shape fills."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any, ClassVar

from lrflow.imports import np
from lrflow.schedules.batches import BatchSteps
from lrflow.schedules.numbers import Floats, positive, whole
from lrflow.wording import counted

LATER = {"later": True}
"""Marks fields that were added after the first plans were written: a spec omits them at their default, so that the
fingerprints of existing plans do not change."""


MOST_STEPS = 10**12
"""Most optimizer steps of a run: at 1000 steps per second they take 30 years."""


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
        batch: the batches of a run whose batch size changes, in place of both; None: it does not change.

    Raises:
        ValueError: steps are not a whole number >= 1, or samples are not a number above 0.
        TooLongError: there are more than `MOST_STEPS` steps.
    """

    rounding: ClassVar[str] = "nearest"
    """How durations are rounded, a name of `ROUNDINGS`; a schedule may round in its own way, see `rounding_to`."""

    steps: int
    steps_per_epoch: int | None = None
    samples_per_step: float | None = field(default=None, metadata=LATER)
    batch: BatchSteps | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps))
        if self.steps > MOST_STEPS:
            raise TooLongError(f"the run would have more than {MOST_STEPS:,} optimizer steps")
        if self.steps_per_epoch is not None:
            object.__setattr__(self, "steps_per_epoch", whole("steps_per_epoch", self.steps_per_epoch))
        if self.samples_per_step is not None:
            object.__setattr__(self, "samples_per_step", positive("samples_per_step", self.samples_per_step))
        if isinstance(self.batch, Mapping):  # of a plan.json or a checkpoint
            own = {name: value for name, value in self.batch.items() if name != "_target_"}
            object.__setattr__(self, "batch", BatchSteps(**own))

    @property
    def epochs(self) -> float:
        """The length of the run in epochs, fractional where `max_steps` cuts one short.

        Raises:
            ValueError: the steps of an epoch are unknown.
        """
        return self.epochs_at(self.steps)

    def epochs_at(self, step: int) -> float:
        """Return the epochs before a step; raises as `epochs` does."""
        if self.batch is not None:
            return float(self.batch.epochs(step))
        if self.steps_per_epoch is None:
            raise ValueError("the horizon has no steps_per_epoch, so the run has no length in epochs")
        return step / self.steps_per_epoch

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
        other = kind(self.steps, None, self.samples_per_step, self.batch)
        object.__setattr__(other, "steps_per_epoch", self.steps_per_epoch)  # a fraction in an optimizer's own steps
        return other

    def at_least(self, steps: int) -> Horizon:
        """Return this horizon, or one of so many steps if that is longer."""
        if steps <= self.steps:
            return self
        longer = type(self)(steps, None, self.samples_per_step, self.batch)
        object.__setattr__(longer, "steps_per_epoch", self.steps_per_epoch)
        return longer

    def part(self, start: int, steps: int) -> Horizon:
        """Return the length of a part of this run, from a step on, as that of a run of its own."""
        own = type(self)(steps, None, self.samples_per_step, self.batch and self.batch.from_step(start))
        object.__setattr__(own, "steps_per_epoch", self.steps_per_epoch)  # a fraction in an optimizer's own steps
        return own

    @property
    def has_epochs(self) -> bool:
        """Whether its steps can be counted in epochs."""
        return self.steps_per_epoch is not None if self.batch is None else self.batch.epoch is not None

    @property
    def samples(self) -> float | None:
        """The samples of the whole run, every step counted as full; None if unknown."""
        if self.batch is not None:
            return self.batch.samples(self.steps)
        return None if self.samples_per_step is None else self.steps * self.samples_per_step

    def same_length(self, other: Horizon) -> bool:
        """Whether both runs have the same steps and steps per epoch; samples per step may differ."""
        alike = (self.batch is None) == (other.batch is None)
        return alike and (self.steps, self.steps_per_epoch) == (other.steps, other.steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which the constructor takes; without fields that were added later and are unknown."""
        content: dict[str, Any] = {"steps": self.steps, "steps_per_epoch": self.steps_per_epoch}
        if self.samples_per_step is not None:
            content["samples_per_step"] = self.samples_per_step
        if self.batch is not None:
            content["batch"] = {one.name: getattr(self.batch, one.name) for one in fields(self.batch)}
            content["batch"] |= {name: list(content["batch"][name]) for name in ("starts", "sizes")}
        return content

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
            whole(name, value)
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
            used = limited(batches, limit_batches)
            if used <= 0:
                raise ValueError(
                    f"no batch in an epoch: {counted(batches, 'batch')}, and limit_batches={limit_batches} leaves none"
                )
            steps_per_epoch = math.ceil(used / accumulate)
        samples_per_step = samples_per_batch * devices * accumulate if samples_per_batch else None

        limits = []
        if max_epochs is not None and max_epochs != -1 and steps_per_epoch is not None:
            limits.append(whole("max_epochs", max_epochs) * steps_per_epoch)
        if max_steps is not None and max_steps != -1:
            limits.append(whole("max_steps", max_steps))
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


def limited(batches: int, limit: int | float) -> int:
    """Return how many of the batches of an epoch are used: at most a whole number of them, or a float share."""
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def steps_within(max_samples: int, samples_per_step: float | None) -> int:
    """Return how many optimizer steps see at most `max_samples` samples on all devices together.

    Raises:
        ValueError: one step already sees more, or the samples per step are unknown.
    """
    if samples_per_step is None:
        raise ValueError("samples cannot be counted in steps: the samples per optimizer step are unknown")
    steps = int(Decimal(whole("max_samples", max_samples)) / Decimal(repr(samples_per_step)))
    if steps == 0:
        raise ValueError(f"an optimizer step sees {samples_per_step:g} samples, so {max_samples} are less than a step")
    return steps

"""Batch-size schedules: sizes with durations, compiled for a run; and an LR that follows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import ClassVar

from lrflow.errors import ConfigError, Problem
from lrflow.imports import np
from lrflow.schedules.batches import BatchSteps
from lrflow.schedules.batches import described as described
from lrflow.schedules.curve import Curve, ScheduledSetting
from lrflow.schedules.time import MOST_STEPS, Duration, Floats, Horizon, Phase, TooLongError
from lrflow.schedules.wrappers import Wrapper
from lrflow.wording import counted

KEY = "schedule.batch"

Sizes = Sequence[tuple[Duration, int]]
"""Batch sizes in samples per optimizer step, each with the duration after which it begins."""


def compile_batches(
    sizes: Sizes,
    epoch: int | None = None,
    *,
    dropped: int = 0,
    max_epochs: int | None = None,
    max_steps: int | None = None,
    max_samples: int | None = None,
) -> Horizon:
    """Return the length of a run with a batch-size schedule, with the batch of each of its steps.

    A share of the run is one of its steps, whose number depends on when the sizes change.

    Args:
        sizes: the first one begins at 0.
        epoch: samples of an epoch; None: unknown.
        dropped: batches per step if an epoch leaves out an incomplete last one, as in `BatchSteps`.
        max_epochs: epochs of the run; None for no limit.
        max_steps: optimizer steps of the run; None for no limit.
        max_samples: samples of the run, every step counted as full; None for no limit.

    Raises:
        ConfigError: a size begins after the end of the run or before the one that precedes it, cannot be counted, or an
            epoch has no step of it.
        ValueError: the run would never end, or has no step.
        TooLongError: it would have more steps than a run may have.
    """

    def length(batch: BatchSteps) -> int:
        limits = [] if max_steps is None else [max_steps]
        if max_epochs is not None and batch.epoch is not None:
            limits.append(batch.first_step(max_epochs))
        if max_samples is not None:
            limits.append(math.floor(batch.step_of_samples(Fraction(max_samples))))
        if not limits:
            raise ValueError("a run without end has no horizon: give max_epochs, max_steps or max_samples")
        return min(limits)

    def made(steps: int) -> BatchSteps:
        return _starting(sizes, steps, epoch, dropped)

    if any(duration.unit == "fraction" and duration.value for duration, _ in sizes):
        # The length that results falls behind the assumed one as that grows, whatever the sizes are.
        most = max(length(_batches([0], [size], epoch, dropped)) for _, size in sizes) + 1
        assumed = _first(lambda steps: length(made(steps)) <= steps, min(most, MOST_STEPS))
    else:
        assumed = MOST_STEPS
    starts = _starts(sizes, assumed, epoch, dropped, checked=True)
    batch = made(assumed)
    steps = length(batch)
    if steps > MOST_STEPS:
        raise TooLongError(f"the run would have more than {MOST_STEPS:,} optimizer steps")
    if steps < 1:
        raise ValueError(f"an optimizer step sees {batch.sizes[0]} samples, so {max_samples} are less than a step")
    late = [(str(duration), start) for (duration, _), start in starts if start >= steps]
    if late:
        message = f"begins at step {late[0][1]:,}, but the run has only {counted(steps, 'step')}"
        raise ConfigError([Problem(KEY, message, late[0][0], "an earlier one, or a longer run")])
    return Horizon(steps, batch=batch)


def _starting(sizes: Sizes, steps: int, epoch: int | None, dropped: int) -> BatchSteps:
    """Return the batches of a run of so many steps; of sizes that begin at the same step the last one counts."""
    first: dict[int, int] = {}
    for (_, size), start in _starts(sizes, steps, epoch, dropped):
        first[start] = size
    return _batches([*first], [*first.values()], epoch, dropped)


def _starts(
    sizes: Sizes, steps: int, epoch: int | None, dropped: int, checked: bool = False
) -> list[tuple[tuple[Duration, int], int]]:
    """Return each size with its first step, counted on the clock that the sizes before it make.

    Raises:
        ConfigError: a size cannot be counted; if `checked`, also one that begins before the size that precedes it.
    """
    found: list[tuple[tuple[Duration, int], int]] = []
    for duration, size in sizes:
        start = 0
        if found:
            horizon = Horizon(steps)
            if duration.unit in ("epochs", "samples"):
                first = {before: other for (_, other), before in found}
                horizon = Horizon(steps, batch=_batches([*first], [*first.values()], epoch, dropped))
            try:
                start = duration.steps(horizon)
            except ValueError as error:
                hint = "give steps ('500 steps'), samples ('50_000 samples') or a share of the run ('10%')"
                raise ConfigError([Problem(KEY, str(error), str(duration), hint)]) from None
            before = found[-1][1]
            if start < before and checked:
                message = f"begins at step {start:,}, before the size that precedes it, at step {before:,}"
                raise ConfigError([Problem(KEY, message, str(duration), "list the sizes in order")])
            if start == before and checked:
                message = f"begins at step {start:,}, as does the size that precedes it, which no step would have"
                raise ConfigError([Problem(KEY, message, str(duration), "begin later, or leave out one of the two")])
            start = max(start, found[-1][1])
        found.append(((duration, size), start))
    return found


def _batches(starts: Sequence[int], sizes: Sequence[int], epoch: int | None, dropped: int) -> BatchSteps:
    try:
        return BatchSteps(tuple(starts), tuple(sizes), epoch, dropped)
    except ValueError as error:
        raise ConfigError([Problem(KEY, str(error), [*sizes], "a smaller size, or data.drop_last=false")]) from None


def _first(holds: Callable[[int], bool], most: int) -> int:
    """Return the first number from 1 for which a condition holds that holds for all later ones, at most `most`."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


@dataclass(frozen=True)
class BatchScaled(Wrapper):
    """A schedule whose LR follows the batch: 1 at the batch with the highest LR, and less at smaller ones.

    Args:
        schedule: the schedule of the run, also one that was resumed with other lengths.
        rule: `linear`: the LR is proportional to the batch; `sqrt`: to the root of it.
        largest: the batch at which the LR has the multiplier of the schedule, samples per step.
    """

    key: ClassVar[str] = "schedule"

    rule: str = "linear"
    largest: int = 1
    floor: float = field(default=0.0, init=False, repr=False)  # it depends on the batches of the run

    @property
    def may_stay_below(self) -> bool:
        """True: the LR may be below its peak while the batch is largest."""
        return True

    def factors(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the factors of the batches at steps, at most 1."""
        batch = horizon.batch
        if batch is None:
            return np.ones_like(steps)
        ratios = batch.sizes_at(np.minimum(steps, max(horizon.steps - 1, 0))) / self.largest
        return ratios if self.rule == "linear" else np.sqrt(ratios)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n], all in [0, horizon.steps]."""
        return self.schedule(steps, horizon) * self.factors(steps, horizon)

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of the warmup to the start of the cooldown."""
        return self.schedule.phase(horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the LR jumps: those of the schedule, and the changes of the batch."""
        changes = [] if horizon.batch is None else [start for start, _ in horizon.batch.changes(horizon.steps) if start]
        return tuple(sorted({*self.schedule.jumps(horizon), *changes}))

    def first_step(self, horizon: Horizon) -> int:
        """Return the first step at which a group with this curve trains."""
        return self.schedule.first_step(horizon)

    def frozen_from(self, horizon: Horizon) -> int | None:
        """Return the first step at which a group with this curve no longer trains."""
        return self.schedule.frozen_from(horizon)

    def without_freezing(self) -> Curve:
        """Return the curve of a group that trains in the whole run."""
        return replace(self, schedule=self.schedule.without_freezing())

    def split_settings(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """Return the curve of the LR alone, and the scheduled settings, which do not follow the batch."""
        alone, also = self.schedule.split_settings()
        return (replace(self, schedule=alone) if also else self), also

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem that the schedule has with this horizon."""
        return self.schedule.check(horizon, key)

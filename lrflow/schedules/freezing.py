"""Curves of groups that are frozen for a part of the run: until their first step, or after their last one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments, count_steps
from lrflow.schedules.curve import Curve, ScheduledSetting
from lrflow.schedules.time import Duration, DurationLike, Floats, Horizon, Phase
from lrflow.schedules.wrappers import Wrapper


@dataclass(frozen=True, init=False)
class _Freezing(Wrapper):
    """The base class of curves that freeze a group; its scheduled settings move on."""

    def without_freezing(self) -> Curve:
        """Return the schedule of a group that trains in the whole run."""
        return self.schedule.without_freezing()

    def split_settings(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """Return the curve of the LR, and the scheduled settings with their curves, which are not frozen."""
        alone, also = self.schedule.split_settings()
        return (replace(self, schedule=alone) if also else self), also


@dataclass(frozen=True, init=False)
class Unfreezing(_Freezing):
    """The curve of a group that is unfrozen later: 0, then the schedule under a linear warmup of the group's own.

    At step s of a warmup of w steps the schedule is multiplied by (s + 1) / (w + 1), so that all rises are equal.

    Args:
        schedule: the group's schedule; it also advances while the group is frozen.
        at: a duration, for which the group is frozen.
        warmup: a duration, counted from there.

    Raises:
        ConfigError: lists every argument that is wrong.
    """

    key: ClassVar[str] = "unfreezing"

    at: Duration
    warmup: Duration

    def __init__(self, schedule: Curve, at: DurationLike, warmup: DurationLike = 0) -> None:
        args = Arguments(self.key)
        if not isinstance(schedule, Curve):
            args.wrong("schedule", schedule, "expected a schedule")
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "at", args.duration("at", at))
        object.__setattr__(self, "warmup", args.duration("warmup", warmup))
        args.finish()
        object.__setattr__(self, "floor", schedule.floor)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n], all in [0, horizon.steps]."""
        start = self.first_step(horizon)
        warmup = self.warmup.steps(horizon, start)
        rise = np.minimum((steps - start + 1.0) / (warmup + 1.0), 1.0) if warmup else 1.0
        return np.where(steps < start, 0.0, self.schedule(steps, horizon) * rise)

    def first_step(self, horizon: Horizon) -> int:
        """Return the first step at which the group trains."""
        return max(self.at.steps(horizon), self.schedule.first_step(horizon))

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of both warmups, the run's and the group's, to the start of the cooldown."""
        phase = self.schedule.phase(horizon)
        first = self.first_step(horizon)
        start = min(first + self.warmup.steps(horizon, first), horizon.steps)
        return Phase(max(phase.start, start), max(phase.stop, start), horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the LR jumps: the unfreezing, and the schedule's jumps after it."""
        start = self.first_step(horizon)
        first = (start,) if 0 < start < horizon.steps else ()
        return first + tuple(step for step in self.schedule.jumps(horizon) if step > start)

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem that the curve has with this horizon.

        Args:
            horizon: how long the run is.
            key: the schedule's key in the config; `schedule` by default.
        """
        problems: list[Problem] = []
        count_steps(self.at, horizon, "", problems)
        count_steps(self.warmup, horizon, "", problems)
        # The duration comes from a rule or a rule maker, whose key the curve does not know.
        return self.schedule.check(horizon, key) + [replace(found, key="layers", value=...) for found in problems]


@dataclass(frozen=True, init=False)
class FrozenAfter(_Freezing):
    """The curve of a group that is frozen after a part of the run: its schedule, then 0.

    Args:
        schedule: the group's schedule.
        at: a duration, for which the group trains.

    Raises:
        ConfigError: lists every argument that is wrong.
    """

    key: ClassVar[str] = "freezing"

    at: Duration

    def __init__(self, schedule: Curve, at: DurationLike) -> None:
        args = Arguments(self.key)
        if not isinstance(schedule, Curve):
            args.wrong("schedule", schedule, "expected a schedule")
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "at", args.duration("at", at))
        args.finish()
        object.__setattr__(self, "floor", schedule.floor)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n], all in [0, horizon.steps]."""
        return np.where(steps < self.at.steps(horizon), self.schedule(steps, horizon), 0.0)

    def first_step(self, horizon: Horizon) -> int:
        """Return the first step at which the group trains."""
        return self.schedule.first_step(horizon)

    def frozen_from(self, horizon: Horizon) -> int | None:
        """Return the first step at which the group no longer trains."""
        return min(self.at.steps(horizon), horizon.steps)

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of the warmup to the start of the cooldown, or to the freezing."""
        phase, stop = self.schedule.phase(horizon), self.at.steps(horizon)
        return Phase(min(phase.start, stop), min(phase.stop, stop), horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the LR jumps: those of the schedule, and the freezing."""
        stop = self.at.steps(horizon)
        return tuple(step for step in self.schedule.jumps(horizon) if step < stop) + (
            (stop,) if stop < horizon.steps else ()
        )

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem that the curve has with this horizon.

        Args:
            horizon: how long the run is.
            key: the schedule's key in the config; `schedule` by default.
        """
        problems: list[Problem] = []
        stop = count_steps(self.at, horizon, "", problems)
        problems = self.schedule.check(horizon, key) + [replace(found, key="layers", value=...) for found in problems]
        if stop is not None and not problems:
            problems += self._misplaced(stop, horizon)
        return problems

    def _misplaced(self, stop: int, horizon: Horizon) -> list[Problem]:
        start = self.first_step(horizon)
        if stop <= start:
            message = f"freezes a group after {self.at}, at step {stop}, and it trains only from step {start}"
            return [Problem("layers", message, ..., "freeze it later, or for the whole run")]
        if stop >= horizon.steps:
            message = f"would freeze a group after {self.at}, at step {stop}, but the run has only {horizon.steps}"
            return [Problem("layers", message, ..., "leave out freeze_after, or freeze the group earlier")]
        return []

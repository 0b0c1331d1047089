"""Curves that wrap a schedule: of a run resumed with another horizon, of fewer steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

from lrflow.errors import Problem, did_you_mean
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments
from lrflow.schedules.curve import MOST_CHANGES, Curve, ScheduledSetting
from lrflow.schedules.time import Floats, Horizon, Phase

ContinueMode = Literal["keep", "rescale", "extend", "decay_now", "rewarm"]


@dataclass(frozen=True)
class Wrapper(Curve):
    """The base class of curves around a schedule."""

    schedule: Curve
    floor: float = field(init=False, repr=False)

    @property
    def may_stay_below(self) -> bool:
        """Whether the schedule may stay below its peak, as it was declared."""
        return self.schedule.may_stay_below

    @property
    def highest(self) -> float:
        """The highest multiplier that the schedule may have, as it was declared."""
        return self.schedule.highest

    def of_peak(self, lr: float) -> Curve:
        """Return the curve of a group with this peak LR."""
        return replace(self, schedule=self.schedule.of_peak(lr))


@dataclass(frozen=True)
class Continued(Wrapper):
    """The schedule of a run resumed at step `at`: the old curve until then, then its continuation.

    Args:
        schedule: the schedule before the run was resumed; may itself be a `Continued`.
        at: the step at which the run is resumed, which is the number of steps already made.
        before: the horizon of the run until then.
        how: `keep`: the old curve on the old horizon, and its last value beyond it; `rescale`: the schedule as if the
            run had always had the new horizon; `extend`: the rest of the old curve, stretched over the rest of the
            run; `decay_now`: a straight line from the LR at `at` to the floor at the end; `rewarm`: the whole schedule
            again over the rest of the run, whose warmup rises from the LR at `at` (Singh et al., 2025,
            arXiv:2503.02844).

    Raises:
        ConfigError: lists every argument that is wrong.
    """

    key: ClassVar[str] = "resume"

    at: int
    before: Horizon
    how: ContinueMode

    def __post_init__(self) -> None:
        args = Arguments(self.key)
        if not isinstance(self.schedule, Curve):
            args.wrong("schedule", self.schedule, "expected a schedule")
        if isinstance(self.at, bool) or not isinstance(self.at, int | np.integer) or self.at < 0:
            args.wrong("at", self.at, "expected a step, a whole number >= 0")
        if not isinstance(self.before, Horizon):
            args.wrong("before", self.before, "expected a horizon")
        if self.how not in get_args(ContinueMode):
            known = get_args(ContinueMode)
            args.wrong("horizon", self.how, f"expected {', '.join(known)}", did_you_mean(str(self.how), known))
        args.finish()
        object.__setattr__(self, "at", int(self.at))
        object.__setattr__(self, "floor", self.schedule.floor)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n], all in [0, horizon.steps]."""
        old = self.schedule(steps, self.before)
        if self.how == "keep" or self.at >= horizon.steps:  # in the second case no step is left
            return old
        if self.how == "rescale":
            new = self.schedule(steps, horizon)
        elif self.how == "extend":
            new = self.schedule(self._stretched(steps, horizon), self.before)
        elif self.how == "rewarm":
            new = self._warmed_again(steps, horizon)
        else:
            top = self.schedule(self.at, self.before)
            target = min(self.floor, top)
            left = (horizon.steps - np.maximum(steps, self.at)) / (horizon.steps - self.at)
            new = target + (top - target) * left
        return np.where(steps < self.at, old, new)

    def _again(self, horizon: Horizon) -> tuple[Curve, Horizon]:
        """Return the schedule as it was configured, without freezing, and the rest of the run."""
        curve = self.schedule
        while isinstance(curve, Continued):
            curve = curve.schedule
        return curve.without_freezing(), horizon.part(self.at, max(horizon.steps - self.at, 1))

    def _warmed_again(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the schedule over the rest of the run; its warmup, as it rises, starts at the LR of step `at`."""
        curve, rest = self._again(horizon)
        since = np.maximum(steps - self.at, 0.0)
        values, warmup = curve(since, rest), curve.phase(rest).start
        first, top = curve([0, warmup], rest)
        if not 0.0 <= first < top:
            return values
        now = min(self.schedule(self.at, self.before), top)
        return np.where(since < warmup, now + (top - now) * ((values - first) / (top - first)), values)

    def _stretched(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the step of the old run that corresponds to each step from `at` on."""
        left_before, left_now = max(self.before.steps - self.at, 0), horizon.steps - self.at
        # Multiplied before the division, so that whole steps of the old run are met exactly.
        return self.at + np.maximum(steps - self.at, 0.0) * left_before / left_now

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of the warmup to the start of the cooldown, in steps of this run."""
        if self.how == "rescale":
            return self.schedule.phase(horizon)
        if self.how == "rewarm" and self.at < horizon.steps:
            curve, rest = self._again(horizon)
            again = curve.phase(rest)
            return Phase(self.at + again.start, self.at + again.stop, horizon)
        old = self.schedule.phase(self.before)
        if self.how == "decay_now":
            return Phase(min(old.start, self.at), min(old.stop, self.at), horizon)
        start, stop = old.start, old.stop
        if self.how == "extend":
            start, stop = self._met(start, horizon), self._met(stop, horizon)
        start = min(start, horizon.steps)
        return Phase(start, max(start, min(stop, horizon.steps)), horizon)

    def _met(self, step: int, horizon: Horizon) -> int:
        """Return the first step of this run that corresponds to `step` of the old run or to a later one."""
        left_before, left_now = self.before.steps - self.at, max(horizon.steps - self.at, 0)
        if step <= self.at or left_before <= 0:
            return step
        return self.at - (self.at - step) * left_now // left_before  # rounded up, in whole numbers

    def split_settings(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """Return the curve of the LR alone, and the scheduled settings, each with the curve that moves it.

        `decay_now` applies to the LR only: a setting with a curve of its own follows the rest of that curve.
        """
        alone, also = self.schedule.split_settings()
        if not also:
            return self, ()
        own: ContinueMode = "extend" if self.how == "decay_now" else self.how
        moved = tuple(
            (entry, replace(self, schedule=curve, how=self.how if entry.curve is None else own))
            for entry, curve in also
        )
        return replace(self, schedule=alone), moved

    def first_step(self, horizon: Horizon) -> int:
        """Return the first step of this run at which a group with this curve trains."""
        old = self.schedule.first_step(self.before)
        if self.how == "rescale" and old >= self.at:
            return max(self.schedule.first_step(horizon), self.at)
        return self._met(old, horizon) if self.how == "extend" else old

    def frozen_from(self, horizon: Horizon) -> int | None:
        """Return the first step of this run at which a group with this curve no longer trains."""
        old = self.schedule.frozen_from(self.before)
        if self.how == "rescale" and (old is None or old > self.at):
            return self.schedule.frozen_from(horizon)
        if old is None or old >= self.before.steps or (self.how == "decay_now" and old > self.at):
            return None
        return self._met(old, horizon) if self.how == "extend" else old

    def without_freezing(self) -> Curve:
        """Return the curve of a group that trains in the whole run."""
        return replace(self, schedule=self.schedule.without_freezing())

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the curve is declared to jump."""
        old = self.schedule.jumps(self.before)
        if self.how == "rescale":
            new = [step for step in self.schedule.jumps(horizon) if step > self.at]
            both = [step for step in old if step < self.at] + ([self.at] if self.at > 0 else []) + new
        elif self.how == "extend":
            both = [self._met(step, horizon) for step in old]
        elif self.how == "rewarm" and self.at < horizon.steps:
            curve, rest = self._again(horizon)
            first, top = curve([0, curve.phase(rest).start], rest)
            rises = 0.0 <= first < top and self.schedule(self.at, self.before) <= top
            both = [step for step in old if step <= self.at] + ([] if rises or not self.at else [self.at])
            both += [self.at + step for step in curve.jumps(rest)]
        elif self.how == "decay_now":
            both = [step for step in old if step <= self.at]
        else:
            both = list(old)
        return tuple(sorted({step for step in both if step <= horizon.steps}))

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem that the curve has with this horizon.

        Args:
            horizon: the run as it is now, including the steps before `at`.
            key: the schedule's key in the config; `schedule` by default.
        """
        problems = self.schedule.check(self.before, key)
        if self.how == "rescale":
            problems += [problem for problem in self.schedule.check(horizon, key) if problem not in problems]
        if self.how == "rewarm" and self.at < horizon.steps:
            curve, rest = self._again(horizon)
            problems += [problem for problem in curve.check(rest, key) if problem not in problems]
        choice = f"{self.key}.horizon"
        if self.at >= horizon.steps:
            message = f"the run is resumed at step {self.at}, but now has only {horizon.steps}: no step is left"
            problems.append(Problem(choice, message, self.how))
        elif not problems and (message := self._freezing_problem(horizon)):
            problems.append(Problem(choice, message, self.how, "try keep or extend"))
        elif not problems and (late := self.first_step(horizon)) >= horizon.steps:
            message = f"a group would be unfrozen at step {late}, but the run now has only {horizon.steps}"
            problems.append(Problem(choice, message, self.how, "try extend, or unfreeze it earlier"))
        elif not problems and self(horizon.steps - 1, horizon) == 0.0 and self.frozen_from(horizon) is None:
            end = max(self.at, self.before.steps)
            message = f"the old schedule ends at an LR of 0, where steps {end} to {horizon.steps - 1} would stay"
            problems.append(Problem(choice, message, self.how, "try rescale"))
        return problems

    def _freezing_problem(self, horizon: Horizon) -> str:
        """Return how a group would be frozen for good or again; an empty text if none would be."""
        old, new = self.schedule.first_step(self.before), self.schedule.first_step(horizon)
        if self.how == "rewarm" and old > self.at:
            return f"a group is frozen until step {old}, and a schedule that starts again freezes none"
        if self.how == "decay_now" and old > self.at:
            return f"a group is frozen until step {old}, so its LR would fall from 0 and it would never train"
        if self.how == "rescale" and old < self.at < new:
            return f"a group that trains since step {old} would be frozen again until step {new}"
        stop, later = self.schedule.frozen_from(self.before), self.schedule.frozen_from(horizon)
        if self.how == "rewarm" and stop is not None:
            return f"a group is frozen from step {stop} on, and a new warmup would begin its training again"
        if self.how == "rescale" and stop is not None and stop <= self.at and (later is None or later > self.at):
            return f"a group that is frozen since step {stop} would train again until step {later}"
        return ""


@dataclass(frozen=True)
class OwnSteps(Wrapper):
    """The schedule of an optimizer that steps at every `every`-th step of the run, in the optimizer's own steps.

    Its step k is made at the step `(k + 1) * every - 1` of the run, and has the value of the schedule at k. The value
    holds for all steps of the run since the optimizer's previous step.

    Args:
        schedule: the schedule, whose durations count the optimizer's steps.
        every: steps of the run per step of the optimizer, at least 2.

    Raises:
        ConfigError: lists every argument that is wrong.
    """

    key: ClassVar[str] = "own_steps"

    every: int

    def __post_init__(self) -> None:
        args = Arguments(self.key)
        if not isinstance(self.schedule, Curve):
            args.wrong("schedule", self.schedule, "expected a schedule")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 2:
            args.wrong("every", self.every, "expected a whole number of at least 2")
        args.finish()
        object.__setattr__(self, "floor", self.schedule.floor)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n] of the run, all in [0, horizon.steps]."""
        return self.schedule(np.floor(steps / self.every), horizon.of_every(self.every))

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of the warmup to the start of the cooldown, in steps of the run."""
        own = horizon.of_every(self.every)
        phase = self.schedule.phase(own)
        start, stop = (horizon.steps if step >= own.steps else step * self.every for step in (phase.start, phase.stop))
        return Phase(start, stop, horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps of the run, in order, at which the LR changes: between them it holds."""
        count = min((horizon.steps - 1) // self.every, MOST_CHANGES)
        moves = np.append(np.arange(1, count + 1) * self.every, horizon.steps)
        return tuple(moves[self(moves, horizon) != self(moves - 1, horizon)].tolist())

    def first_step(self, horizon: Horizon) -> int:
        """Return the first step of the run at which the group trains."""
        return self.schedule.first_step(horizon.of_every(self.every)) * self.every

    def without_freezing(self) -> Curve:
        """Return the curve of a group that trains from the first step on."""
        return replace(self, schedule=self.schedule.without_freezing())

    def split_settings(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """Return the curve of the LR alone, and the scheduled settings, each with the curve that moves it."""
        alone, also = self.schedule.split_settings()
        moved = tuple((entry, replace(self, schedule=curve)) for entry, curve in also)
        return (replace(self, schedule=alone) if also else self), moved

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem that the schedule has with the optimizer's steps in this run.

        Args:
            horizon: how long the run is.
            key: the schedule's key in the config; `schedule` by default.
        """
        if horizon.steps < self.every:
            message = f"steps at every {self.every} steps, and the run has only {horizon.steps}"
            return [Problem("optimizer", message, ..., "take a smaller every, or train longer")]
        problems = self.schedule.check(horizon.of_every(self.every), key)
        clock = f"counted in the optimizer's own steps, one at every {self.every} of the run"
        return [replace(found, message=f"{found.message} ({clock})") for found in problems]


@dataclass(frozen=True)
class OfModule(Curve):
    """Stands for the scheduler of a LightningModule's own `configure_optimizers`, with `optimizer=module`.

    Each group of the module's optimizer gets the LRs of its scheduler as a table when the run is planned.
    """

    floor: float = field(default=0.0, init=False, repr=False)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return ones: the tables of the groups take its place."""
        return np.ones_like(steps)

    def phase(self, horizon: Horizon) -> Phase:
        """Return the whole run."""
        return Phase(0, horizon.steps, horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return no steps."""
        return ()

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return the problem of a group that follows this curve: its table should have taken the place."""
        message = "is the scheduler of a LightningModule's own optimizer"
        return [Problem(key or self.key, message, "module", "it needs optimizer=module")]

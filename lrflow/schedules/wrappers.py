"""A schedule that goes on over another horizon, after a run was resumed with more or fewer steps.

A schedule that a group of parameters joins later: it is frozen until then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

from lrflow.errors import Problem, did_you_mean
from lrflow.imports import np
from lrflow.schedules._arguments import Fields, length
from lrflow.schedules.base import Curve, ScheduledSetting
from lrflow.schedules.time import Duration, DurationLike, Floats, Horizon, Phase

How = Literal["keep", "rescale", "extend", "decay_now"]


@dataclass(frozen=True)
class Continued(Curve):
    """A run resumed at step `at`: the old schedule up to there, and then on over another horizon.

    Args:
        schedule: what the run followed before it was resumed; may itself be continued.
        at: the step at which the run is resumed: steps already made.
        before: how long the run was meant to be until then.
        how: `keep` the old curve on the old horizon, and its last value beyond it; `rescale`: the schedule as if the
            run had always had the new horizon; `extend`: what was left of the old curve, stretched over what is left
            of the run; `decay_now`: from the LR at `at` straight down to the floor at the end.

    Raises:
        ConfigError: with every argument that cannot be.
    """

    key: ClassVar[str] = "resume"

    schedule: Curve
    at: int
    before: Horizon
    how: How
    floor: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        fields = Fields(self.key)
        if not isinstance(self.schedule, Curve):
            fields.wrong("schedule", self.schedule, "expected a schedule")
        if isinstance(self.at, bool) or not isinstance(self.at, int | np.integer) or self.at < 0:
            fields.wrong("at", self.at, "expected a step, a whole number >= 0")
        if not isinstance(self.before, Horizon):
            fields.wrong("before", self.before, "expected a horizon")
        if self.how not in get_args(How):
            known = get_args(How)
            fields.wrong("horizon", self.how, f"expected {', '.join(known)}", did_you_mean(str(self.how), known))
        fields.finish()
        object.__setattr__(self, "at", int(self.at))
        object.__setattr__(self, "floor", self.schedule.floor)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """The multipliers at a row of steps that all lie in [0, horizon.steps]."""
        old = self.schedule(steps, self.before)
        if self.how == "keep" or self.at >= horizon.steps:  # the latter has no step left to choose
            return old
        if self.how == "rescale":
            new = self.schedule(steps, horizon)
        elif self.how == "extend":
            new = self.schedule(self._stretched(steps, horizon), self.before)
        else:
            top = self.schedule(self.at, self.before)
            target = min(self.floor, top)
            left = (horizon.steps - np.maximum(steps, self.at)) / (horizon.steps - self.at)
            new = target + (top - target) * left
        return np.where(steps < self.at, old, new)

    def _stretched(self, steps: Floats, horizon: Horizon) -> Floats:
        """The old run's step that each step from `at` on stands for."""
        left_before, left_now = max(self.before.steps - self.at, 0), horizon.steps - self.at
        # Multiplied before it is divided: a whole step of the old run is then met exactly.
        return self.at + np.maximum(steps - self.at, 0.0) * left_before / left_now

    def phase(self, horizon: Horizon) -> Phase:
        """Where the warmup ends and the cooldown starts, on this run's clock."""
        if self.how == "rescale":
            return self.schedule.phase(horizon)
        old = self.schedule.phase(self.before)
        if self.how == "decay_now":
            return Phase(min(old.start, self.at), min(old.stop, self.at), horizon)
        start, stop = old.start, old.stop
        if self.how == "extend":
            start, stop = self._met(start, horizon), self._met(stop, horizon)
        start = min(start, horizon.steps)
        return Phase(start, max(start, min(stop, horizon.steps)), horizon)

    def _met(self, step: int, horizon: Horizon) -> int:
        """The first step of this run that stands for `step` of the old one or a later one."""
        left_before, left_now = self.before.steps - self.at, max(horizon.steps - self.at, 0)
        if step <= self.at or left_before <= 0:
            return step
        return self.at - (self.at - step) * left_now // left_before  # rounded up, in whole numbers

    def split(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """The curve of the LR alone, and each setting of the optimizer that moves besides, with what moves it.

        To decay now is said of the LR: a setting with a curve of its own goes through the rest of that.
        """
        alone, also = self.schedule.split()
        if not also:
            return self, ()
        own: How = "extend" if self.how == "decay_now" else self.how
        moved = tuple(
            (entry, replace(self, schedule=curve, how=self.how if entry.curve is None else own))
            for entry, curve in also
        )
        return replace(self, schedule=alone), moved

    def starts(self, horizon: Horizon) -> int:
        """The first step at which a group with this curve trains, on this run's clock."""
        old = self.schedule.starts(self.before)
        if self.how == "rescale" and old >= self.at:
            return max(self.schedule.starts(horizon), self.at)
        return self._met(old, horizon) if self.how == "extend" else old

    def unfrozen(self) -> Curve:
        """The curve of a group that trains from the first step on."""
        return replace(self, schedule=self.schedule.unfrozen())

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """The steps, rising, at which the LR is declared to change at once."""
        old = self.schedule.jumps(self.before)
        if self.how == "rescale":
            new = [step for step in self.schedule.jumps(horizon) if step > self.at]
            both = [step for step in old if step < self.at] + ([self.at] if self.at > 0 else []) + new
        elif self.how == "extend":
            both = [self._met(step, horizon) for step in old]
        elif self.how == "decay_now":
            both = [step for step in old if step <= self.at]
        else:
            both = list(old)
        return tuple(sorted({step for step in both if step <= horizon.steps}))

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Everything that cannot be meant with this horizon.

        Args:
            horizon: how long the run is now, the steps before `at` among them.
            key: where the schedule stands in the config, `schedule` by default.
        """
        problems = self.schedule.check(self.before, key)
        if self.how == "rescale":
            problems += [problem for problem in self.schedule.check(horizon, key) if problem not in problems]
        choice = f"{self.key}.horizon"
        if self.at >= horizon.steps:
            message = f"the run is resumed at step {self.at}, but now has only {horizon.steps}: nothing is left of it"
            problems.append(Problem(choice, message, self.how))
        elif not problems and (message := self._freezes(horizon)):
            problems.append(Problem(choice, message, self.how, "try keep or extend"))
        elif not problems and (late := self.starts(horizon)) >= horizon.steps:
            message = f"a group would be unfrozen at step {late}, and the run now has only {horizon.steps}"
            problems.append(Problem(choice, message, self.how, "try extend, or unfreeze it earlier"))
        elif not problems and self(horizon.steps - 1, horizon) == 0.0:
            end = max(self.at, self.before.steps)
            message = f"the old schedule ends at an LR of 0, where steps {end} to {horizon.steps - 1} would stay"
            problems.append(Problem(choice, message, self.how, "try rescale"))
        return problems

    def _freezes(self, horizon: Horizon) -> str:
        """How a group would be frozen for good, or again; empty where it is not."""
        old, new = self.schedule.starts(self.before), self.schedule.starts(horizon)
        if self.how == "decay_now" and old > self.at:
            return f"a group is frozen until step {old}, so its LR would go down from 0 and it would never train"
        if self.how == "rescale" and old < self.at < new:
            return f"a group that trains since step {old} would be frozen again until step {new}"
        return ""


@dataclass(frozen=True, init=False)
class Unfreezing(Curve):
    """0 while a group is frozen, and from then on the schedule, under a linear warmup of the group's own.

    At step s of a warmup of w steps the schedule is multiplied by (s + 1) / (w + 1), so that all rises are equal.

    Args:
        schedule: what the group follows once it trains; it goes on while the group is frozen.
        at: how long the group is frozen.
        warmup: a duration, counted from there.

    Raises:
        ConfigError: with every argument that cannot be.
    """

    key: ClassVar[str] = "unfreezing"

    schedule: Curve
    at: Duration
    warmup: Duration
    floor: float = field(init=False, repr=False)

    def __init__(self, schedule: Curve, at: DurationLike, warmup: DurationLike = 0) -> None:
        fields = Fields(self.key)
        if not isinstance(schedule, Curve):
            fields.wrong("schedule", schedule, "expected a schedule")
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "at", fields.duration("at", at))
        object.__setattr__(self, "warmup", fields.duration("warmup", warmup))
        fields.finish()
        object.__setattr__(self, "floor", schedule.floor)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """The multipliers at a row of steps that all lie in [0, horizon.steps]."""
        start, warmup = self.starts(horizon), self.warmup.steps(horizon)
        rise = np.minimum((steps - start + 1.0) / (warmup + 1.0), 1.0) if warmup else 1.0
        return np.where(steps < start, 0.0, self.schedule(steps, horizon) * rise)

    def starts(self, horizon: Horizon) -> int:
        """The step from which on the group trains."""
        return max(self.at.steps(horizon), self.schedule.starts(horizon))

    def unfrozen(self) -> Curve:
        """The schedule of a group that trains from the first step on."""
        return self.schedule.unfrozen()

    def split(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """The curve of the LR alone, and each setting that moves besides: as if the group trained from the start."""
        alone, also = self.schedule.split()
        return (replace(self, schedule=alone) if also else self), also

    def phase(self, horizon: Horizon) -> Phase:
        """Where both warmups are over, the run's and the group's, and where the cooldown starts."""
        phase = self.schedule.phase(horizon)
        start = min(self.starts(horizon) + self.warmup.steps(horizon), horizon.steps)
        return Phase(max(phase.start, start), max(phase.stop, start), horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """The steps, rising, at which the LR changes at once: the unfreezing, and the schedule's own from there on."""
        start = self.starts(horizon)
        first = (start,) if 0 < start < horizon.steps else ()
        return first + tuple(step for step in self.schedule.jumps(horizon) if step > start)

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Everything that cannot be meant with this horizon.

        Args:
            horizon: how long the run is.
            key: where the schedule stands in the config, `schedule` by default.
        """
        problems: list[Problem] = []
        length(self.at, horizon, "", problems)
        length(self.warmup, horizon, "", problems)
        # It was made of a rule or of a rule maker, which no curve knows.
        return self.schedule.check(horizon, key) + [replace(found, key="layers", value=...) for found in problems]

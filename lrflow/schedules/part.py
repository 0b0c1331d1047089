"""A curve that runs in a part of the run: it begins later, or ends before the run does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.schedules._arguments import Arguments, count_steps, prefix_keys
from lrflow.schedules.curve import Curve
from lrflow.schedules.time import Duration, DurationLike, Floats, Horizon, Phase


@dataclass(frozen=True, init=False)
class PartOfRun(Curve):
    """A curve in a part of the run: its first value before the part, and its last one after it.

    Args:
        schedule: the curve; its shares (10%) are shares of the part.
        start: a duration, after which the part begins.
        over: length of the part; None: to the end of the run.

    Raises:
        ConfigError: lists every argument that is wrong.
    """

    key: ClassVar[str] = "part"

    schedule: Curve
    start: Duration
    over: Duration | None
    floor: float = field(init=False, repr=False)

    def __init__(self, schedule: Curve, start: DurationLike = 0, over: DurationLike | None = None) -> None:
        args = Arguments(self.key)
        if not isinstance(schedule, Curve):
            args.wrong("schedule", schedule, "expected a schedule")
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "start", args.duration("start", start))
        object.__setattr__(self, "over", None if over is None else args.duration("over", over))
        if self.over is not None and not self.over.value:
            args.wrong("over", over, "expected a duration above 0")
        args.finish()
        object.__setattr__(self, "floor", schedule.floor)

    @property
    def highest(self) -> float:
        """The highest multiplier that the curve may have, as it was declared."""
        return self.schedule.highest

    def part(self, horizon: Horizon) -> tuple[int, Horizon]:
        """Return the first step of the part, and its length as a horizon."""
        first = self.start.steps(horizon)
        length = horizon.steps - first if self.over is None else self.over.steps(horizon, first)
        own = max(1, min(length, horizon.steps - first) if self._rounded_up else length)
        return first, horizon.part(first, own)

    @property
    def _rounded_up(self) -> bool:
        """Whether the part ends within the run, and at most the rounding of its shares to whole steps goes beyond."""
        if self.over is None or not self.start.unit == self.over.unit == "fraction":
            return False
        return self.start.value + self.over.value <= 1 + 1e-12

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the values at an array of steps [n], all in [0, horizon.steps]."""
        first, own = self.part(horizon)
        values: Floats = self.schedule(steps - first, own)
        return values

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of the curve's warmup to the start of its cooldown, in steps of the run."""
        first, own = self.part(horizon)
        inner = self.schedule.phase(own)
        return Phase(min(first + inner.start, horizon.steps), min(first + inner.stop, horizon.steps), horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the curve is declared to jump."""
        first, own = self.part(horizon)
        return tuple(first + step for step in self.schedule.jumps(own) if first + step <= horizon.steps)

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem that the curve has with this horizon.

        Args:
            horizon: how long the run is.
            key: the key of the curve in the config.
        """
        problems = self.part_problems(horizon)
        if not problems:
            _, own = self.part(horizon)
            problems = [
                replace(one, key=one.key.removeprefix(f"{self.schedule.key}.")) for one in self.schedule.check(own)
            ]
        return prefix_keys(key or self.key, problems)

    def part_problems(self, horizon: Horizon) -> list[Problem]:
        """Return the problems that the part itself has with this horizon; their keys are `start` and `over`."""
        problems: list[Problem] = []
        first = count_steps(self.start, horizon, "start", problems)
        length = None if self.over is None else count_steps(self.over, horizon, "over", problems)
        if first is not None and first >= horizon.steps:
            message = f"is {first:,} steps, but the run has only {horizon.steps:,}"
            problems.append(Problem("start", message, str(self.start), "it would never move"))
        elif first is not None and length is not None and first + length > horizon.steps and not self._rounded_up:
            message = f"ends after step {first + length:,}, but the run has only {horizon.steps:,} steps"
            problems.append(Problem("over", message, str(self.over), "leave it out: it then ends with the run"))
        return problems

"""A schedule that a group of parameters joins later: it is frozen until then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.lazy import np
from lrflow.schedules.curve import Curve, ScheduledSetting
from lrflow.schedules.durations import Duration, DurationLike
from lrflow.schedules.fields import Fields, length
from lrflow.schedules.horizons import Floats, Horizon, Phase


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

"""What every shape is: a pure curve between warmup and cooldown, never above 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.schedules.durations import Duration
from lrflow.schedules.horizons import Floats, Phase


class Shape(ABC):
    """A curve from (step, phase) to a multiplier in [0, 1], without state.

    It is 1 at the phase's start, or comes to 1 inside the phase where it has a rise of its own.

    Subclasses are frozen dataclasses; they compute elementwise in float64, also at fractional steps.
    """

    key: ClassVar[str] = "schedule.shape"

    lands: ClassVar[bool] = False
    """Whether it is exactly 0 at the phase's end: a floor then lifts the whole curve instead of cutting it."""

    @abstractmethod
    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """The multipliers at these steps, of the same shape; before the phase the first, after it the last."""

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The steps, rising, at which the curve changes at once; none for a continuous one."""
        return ()

    def check(self, phase: Phase) -> list[Problem]:
        """What cannot be meant with this phase; keys are the shape's own fields."""
        return []


def last_before(stop: int, every: int) -> int:
    """How many times `every` comes round before the step `stop`, which is not of the phase any more."""
    return max(stop - 1, 0) // every


def never(every: Duration, steps: int, phase: Phase) -> Problem:
    """The problem of an `every` that does not come round inside the phase."""
    message = f"is {steps} steps, so the LR never falls between step {phase.start} and step {phase.stop}"
    return Problem("every", message, str(every))

"""Shapes: the pure curves between warmup and cooldown, each 1 where its phase starts and never above it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lrflow.errors import Problem
from lrflow.schedules.durations import Duration, DurationLike
from lrflow.schedules.fields import Fields, length
from lrflow.schedules.horizons import Floats, Phase


class Shape(ABC):
    """A curve from (step, phase) to a multiplier in [0, 1]: 1 at the phase's start, without state.

    Subclasses are frozen dataclasses; they compute elementwise in float64, also at fractional steps.
    """

    key: ClassVar[str] = "schedule.shape"

    lands: ClassVar[bool] = False
    """Whether it is exactly 0 at the phase's end: a floor then lifts the whole curve instead of cutting it."""

    @abstractmethod
    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """The multipliers at these steps, of the same shape; before the phase the first, after it the last."""

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The steps, rising, at which the curve falls at once; none for a continuous one."""
        return ()

    def check(self, phase: Phase) -> list[Problem]:
        """What cannot be meant with this phase; keys are the shape's own fields."""
        return []


@dataclass(frozen=True)
class Constant(Shape):
    """The peak throughout; with a cooldown it is warmup-stable-decay (Hu et al., 2024)."""

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """1 throughout."""
        return np.ones_like(step)


@dataclass(frozen=True)
class Linear(Shape):
    """A straight line down, 1 - p."""

    lands: ClassVar[bool] = True

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """1 - p."""
        return 1.0 - phase.progress(step)


@dataclass(frozen=True)
class Cosine(Shape):
    """Half a cosine down, (1 + cos(pi p)) / 2 (Loshchilov and Hutter, SGDR, 2017, without restarts)."""

    lands: ClassVar[bool] = True

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """(1 + cos(pi p)) / 2."""
        return 0.5 * (1.0 + np.cos(math.pi * phase.progress(step)))


@dataclass(frozen=True)
class Polynomial(Shape):
    """A power of the way left, (1 - p)^power.

    Args:
        power: above 0; 1 is linear, more falls earlier.
    """

    lands: ClassVar[bool] = True

    power: float = 2.0

    def __post_init__(self) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "power", fields.number("power", self.power, 0.0, math.inf, open_low=True))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """(1 - p)^power."""
        return (1.0 - phase.progress(step)) ** self.power


@dataclass(frozen=True, init=False)
class Exponential(Shape):
    """gamma^(t / every), t counted from the phase's start.

    Args:
        gamma: the factor after each `every`, above 0 and at most 1.
        every: a duration.
        staircase: fall at once at the end of each `every`, instead of smoothly.
    """

    gamma: float
    every: Duration
    staircase: bool

    def __init__(self, gamma: float = 0.9, every: DurationLike = "1 epoch", staircase: bool = False) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "gamma", fields.number("gamma", gamma, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "every", fields.duration("every", every))
        object.__setattr__(self, "staircase", bool(staircase))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """gamma^(t / every), or its stairs."""
        every = max(self.every.steps(phase.horizon), 1)
        periods = phase.elapsed(step) / every
        if self.staircase:
            periods = np.minimum(np.floor(periods), _last_before(phase.steps, every))
        return np.power(self.gamma, periods)

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The end of each `every` inside the phase, where there is a staircase."""
        if not self.staircase:
            return ()
        every = max(self.every.steps(phase.horizon), 1)
        return tuple(range(phase.start + every, phase.stop, every))

    def check(self, phase: Phase) -> list[Problem]:
        """`every` must be a step at least and, for a staircase, end inside the phase."""
        problems: list[Problem] = []
        every = length(self.every, phase.horizon, "every", problems)
        if every == 0:
            problems.append(Problem("every", "is shorter than one step", str(self.every)))
        elif every is not None and self.staircase and every >= phase.steps:
            problems.append(_never(self.every, every, phase))
        return problems


@dataclass(frozen=True, init=False)
class Step(Shape):
    """Times gamma once every so often on the run's clock; what would fall inside the warmup is not counted.

    Args:
        gamma: the factor each time, above 0 and at most 1.
        every: a duration, counted from the start of the run.
    """

    gamma: float
    every: Duration

    def __init__(self, gamma: float = 0.1, every: DurationLike = "30%") -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "gamma", fields.number("gamma", gamma, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "every", fields.duration("every", every))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """gamma to the number of drops so far."""
        every = max(self.every.steps(phase.horizon), 1)
        before = phase.start // every
        last = max(_last_before(phase.stop, every), before)
        drops = np.clip(np.floor(step / every), before, last) - before
        return np.power(self.gamma, drops)

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The multiples of `every` inside the phase."""
        every = max(self.every.steps(phase.horizon), 1)
        return tuple(range((phase.start // every + 1) * every, phase.stop, every))

    def check(self, phase: Phase) -> list[Problem]:
        """`every` must be a step at least, and come round inside the phase."""
        problems: list[Problem] = []
        every = length(self.every, phase.horizon, "every", problems)
        if every == 0:
            problems.append(Problem("every", "is shorter than one step", str(self.every)))
        elif every is not None and not self.jumps(phase):
            problems.append(_never(self.every, every, phase))
        return problems


@dataclass(frozen=True, init=False)
class MultiStep(Shape):
    """Times gamma at each milestone on the run's clock (He et al., 2016).

    Args:
        gamma: the factor at each milestone, above 0 and at most 1.
        milestones: durations, counted from the start of the run, rising, each inside the phase.
    """

    gamma: float
    milestones: tuple[Duration, ...]

    def __init__(self, gamma: float = 0.1, milestones: Sequence[DurationLike] = ("50%", "75%")) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "gamma", fields.number("gamma", gamma, 0.0, 1.0, open_low=True))
        if isinstance(milestones, str | Duration | int | float) or not milestones:
            fields.wrong("milestones", milestones, "expected a list with at least one duration", "like [50%, 75%]")
            milestones = ()
        read = tuple(fields.duration(f"milestones[{i}]", milestone) for i, milestone in enumerate(milestones))
        object.__setattr__(self, "milestones", read)
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """gamma to the number of milestones passed."""
        drops = np.searchsorted(np.array(self.jumps(phase), dtype=np.float64), step, side="right")
        return np.power(self.gamma, drops.astype(np.float64))

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The milestones inside the phase; one that stands twice counts twice."""
        steps = sorted(milestone.steps(phase.horizon) for milestone in self.milestones)
        return tuple(step for step in steps if phase.start < step < phase.stop)

    def check(self, phase: Phase) -> list[Problem]:
        """Each milestone must come after the one before it, and inside the phase."""
        problems: list[Problem] = []
        previous = 0
        for i, milestone in enumerate(self.milestones):
            name, shown = f"milestones[{i}]", str(milestone)
            step = length(milestone, phase.horizon, name, problems)
            if step is None:
                continue
            if step >= phase.horizon.steps:
                problems.append(Problem(name, f"is step {step}, but the run has {phase.horizon.steps}", shown))
            elif step >= phase.stop:
                problems.append(Problem(name, f"is step {step}, in the cooldown, which starts at {phase.stop}", shown))
            elif step <= phase.start:
                problems.append(
                    Problem(name, f"is step {step}, in the warmup, which ends at step {phase.start}", shown)
                )
            elif step <= previous:
                problems.append(Problem(name, f"is step {step}, not after the milestone before it", shown))
            previous = step
        return problems


def _last_before(stop: int, every: int) -> int:
    """How many times `every` comes round before the step `stop`, which is not of the phase any more."""
    return max(stop - 1, 0) // every


def _never(every: Duration, steps: int, phase: Phase) -> Problem:
    message = f"is {steps} steps, so the LR never falls between step {phase.start} and step {phase.stop}"
    return Problem("every", message, str(every))

"""Decays: shapes that only ever fall, from 1 where their phase starts.

Stairs: shapes that fall at once, at steps counted on the run's clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Fields, length
from lrflow.schedules.base import Shape, last_before, never
from lrflow.schedules.time import LATER, Duration, DurationLike, Floats, Phase


@dataclass(frozen=True)
class Constant(Shape):
    """The peak throughout; with a cooldown it is warmup-stable-decay (Hu et al., 2024, arXiv:2404.06395)."""

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """1 throughout."""
        return np.ones_like(step)


@dataclass(frozen=True)
class Linear(Shape):
    """A straight line down, 1 - p; to a floor of 0 it is D2Z (Bergsma et al., 2025, arXiv:2502.15938)."""

    lands: ClassVar[bool] = True

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """1 - p."""
        return 1.0 - phase.progress(step)


@dataclass(frozen=True)
class Cosine(Shape):
    """Half a cosine down, (1 + cos(pi p^k)) / 2.

    Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983, without restarts; k: Zhang and Li, 2020, arXiv:2004.05909.

    Args:
        k: above 0; more than 1 stays up longer and then falls faster (k-decay, Zhang and Li, 2020).
    """

    lands: ClassVar[bool] = True

    k: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "k", fields.number("k", self.k, 0.0, math.inf, open_low=True))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """(1 + cos(pi p^k)) / 2."""
        return 0.5 * (1.0 + np.cos(math.pi * phase.progress(step) ** self.k))


@dataclass(frozen=True)
class Polynomial(Shape):
    """A power of the way left, (1 - p^k)^power.

    k: Zhang and Li, 2020, arXiv:2004.05909.

    Args:
        power: above 0; 1 is linear, more falls earlier.
        k: above 0; more than 1 stays up longer and then falls faster (k-decay, Zhang and Li, 2020).
    """

    lands: ClassVar[bool] = True

    power: float = 2.0
    k: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "power", fields.number("power", self.power, 0.0, math.inf, open_low=True))
        object.__setattr__(self, "k", fields.number("k", self.k, 0.0, math.inf, open_low=True))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """(1 - p^k)^power."""
        return (1.0 - phase.progress(step) ** self.k) ** self.power


@dataclass(frozen=True)
class Rex(Shape):
    """Reflected exponential, (1 - p) / (1 - p / 2): slow at first, fast at the end.

    Chen et al., REX, 2021, arXiv:2107.04197.
    """

    lands: ClassVar[bool] = True

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """(1 - p) / (1 - p / 2)."""
        progress = phase.progress(step)
        return (1.0 - progress) / (1.0 - 0.5 * progress)


@dataclass(frozen=True)
class Tanh(Shape):
    """Hyperbolic-tangent decay, (1 - tanh(lower (1 - p) + upper p)) / 2.

    Hsueh et al., HTD, 2018, arXiv:1806.01593.

    Divided by its value at p = 0, which the paper leaves a few millionths under the peak.

    Args:
        lower: where on the tanh it starts, from -100 to 10; less stays up longer.
        upper: where it ends, above `lower` and at most 10; less ends higher: 3 at 0.25 % of the peak.
    """

    lower: float = -6.0
    upper: float = 3.0

    def __post_init__(self) -> None:
        fields = Fields(self.key)
        lower = fields.number("lower", self.lower, -100.0, 10.0)
        upper = fields.number("upper", self.upper, -100.0, 10.0)
        if upper <= lower:
            fields.wrong("upper", self.upper, f"expected a number above lower, which is {lower:g}")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """(1 - tanh(lower (1 - p) + upper p)) / (1 - tanh(lower))."""
        progress = phase.progress(step)
        return (1.0 - np.tanh(self.lower * (1.0 - progress) + self.upper * progress)) / (1.0 - np.tanh(self.lower))


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
            periods = np.minimum(np.floor(periods), last_before(phase.steps, every))
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
            problems.append(never(self.every, every, phase))
        return problems


@dataclass(frozen=True, init=False)
class InverseTime(Shape):
    """(1 + gamma t / every)^-power, t counted from the phase's start.

    Caffe's `inv`, Jia et al., 2014, arXiv:1408.5093.

    Args:
        gamma: how fast it falls, above 0; 1 and a power of 1: half the peak after one `every`, a third after two.
        power: above 0.
        every: a duration, the unit of time of gamma.
    """

    gamma: float
    power: float
    every: Duration

    def __init__(self, gamma: float = 1.0, power: float = 0.75, every: DurationLike = "10%") -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "gamma", fields.number("gamma", gamma, 0.0, math.inf, open_low=True))
        object.__setattr__(self, "power", fields.number("power", power, 0.0, math.inf, open_low=True))
        object.__setattr__(self, "every", fields.duration("every", every))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """(1 + gamma t / every)^-power."""
        every = max(self.every.steps(phase.horizon), 1)
        return np.power(1.0 + self.gamma * phase.elapsed(step) / every, -self.power)

    def check(self, phase: Phase) -> list[Problem]:
        """`every` must be a step at least."""
        problems: list[Problem] = []
        if length(self.every, phase.horizon, "every", problems) == 0:
            problems.append(Problem("every", "is shorter than one step", str(self.every)))
        return problems


@dataclass(frozen=True, init=False)
class InverseSqrt(Shape):
    """sqrt(s / (s + t)), t counted from the phase's start, s the timescale.

    Raffel et al., T5, 2020, arXiv:1910.10683. With the warmup as its timescale it is the decay of Noam (Vaswani et al.,
    2017, arXiv:1706.03762), the inverse square root of the step of the run.

    Args:
        timescale: a duration, after which it stands at sqrt(1/2); None: as long as the warmup.
    """

    timescale: Duration | None

    def __init__(self, timescale: DurationLike | None = None) -> None:
        fields = Fields(self.key)
        read = None if timescale is None else fields.duration("timescale", timescale)
        object.__setattr__(self, "timescale", read)
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """sqrt(s / (s + t))."""
        timescale = phase.start if self.timescale is None else self.timescale.steps(phase.horizon)
        timescale = max(timescale, 1)
        return np.sqrt(timescale / (timescale + phase.elapsed(step)))

    def check(self, phase: Phase) -> list[Problem]:
        """The timescale must be a step at least, and without one there must be a warmup."""
        problems: list[Problem] = []
        if self.timescale is None:
            if phase.start == 0:
                message = "is to be as long as the warmup, and there is none"
                problems.append(Problem("timescale", message, None, "give a warmup, or a timescale such as 5%"))
        elif length(self.timescale, phase.horizon, "timescale", problems) == 0:
            problems.append(Problem("timescale", "is shorter than one step", str(self.timescale)))
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
        last = max(last_before(phase.stop, every), before)
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
            problems.append(never(self.every, every, phase))
        return problems


@dataclass(frozen=True, init=False)
class MultiStep(Shape):
    """Times gamma at each milestone on the run's clock (He et al., 2016, arXiv:1512.03385).

    Args:
        gamma: the factor at each milestone, above 0 and at most 1.
        milestones: durations from the start of the run, each inside the phase; one that stands twice counts twice.
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
        """The milestones inside the phase, in order; one that stands twice is there twice."""
        steps = sorted(milestone.steps(phase.horizon) for milestone in self.milestones)
        return tuple(step for step in steps if phase.start < step < phase.stop)

    def check(self, phase: Phase) -> list[Problem]:
        """Each milestone must lie inside the phase."""
        problems: list[Problem] = []
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
        return problems

"""Decay shapes, which never rise: smooth curves, and an exponential that may fall in stairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments, count_steps
from lrflow.schedules.curve import MOST_CHANGES, Shape, never_falls, periods_before, too_many_changes
from lrflow.schedules.time import LATER, Duration, DurationLike, Floats, Phase


@dataclass(frozen=True)
class Constant(Shape):
    """The peak at every step; with a cooldown it is warmup-stable-decay (Hu et al., 2024, arXiv:2404.06395)."""

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return 1 at every step."""
        return np.ones_like(step)


@dataclass(frozen=True)
class Linear(Shape):
    """A straight line down, 1 - p; to a floor of 0 it is D2Z (Bergsma et al., 2025, arXiv:2502.15938)."""

    lands: ClassVar[bool] = True

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return 1 - p, where p is the elapsed share of the phase."""
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
        args = Arguments(self.key)
        object.__setattr__(self, "k", args.number("k", self.k, 0.0, math.inf, open_low=True))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return (1 + cos(pi p^k)) / 2."""
        return 0.5 * (1.0 + np.cos(math.pi * phase.progress(step) ** self.k))


@dataclass(frozen=True)
class Polynomial(Shape):
    """A power of the share that is left, (1 - p^k)^power.

    k: Zhang and Li, 2020, arXiv:2004.05909.

    Args:
        power: above 0; 1 is linear, more falls earlier.
        k: above 0; more than 1 stays up longer and then falls faster (k-decay, Zhang and Li, 2020).
    """

    lands: ClassVar[bool] = True

    power: float = 2.0
    k: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "power", args.number("power", self.power, 0.0, math.inf, open_low=True))
        object.__setattr__(self, "k", args.number("k", self.k, 0.0, math.inf, open_low=True))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return (1 - p^k)^power."""
        return (1.0 - phase.progress(step) ** self.k) ** self.power


@dataclass(frozen=True)
class Rex(Shape):
    """Reflected exponential, (1 - p) / (1 - p / 2): slow at first, fast at the end.

    Chen et al., REX, 2021, arXiv:2107.04197.
    """

    lands: ClassVar[bool] = True

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return (1 - p) / (1 - p / 2)."""
        progress = phase.progress(step)
        return (1.0 - progress) / (1.0 - 0.5 * progress)


@dataclass(frozen=True)
class Tanh(Shape):
    """Hyperbolic-tangent decay, (1 - tanh(lower (1 - p) + upper p)) / 2.

    Hsueh et al., HTD, 2018, arXiv:1806.01593.

    It is divided by its value at p = 0, which in the paper is a few millionths below the peak.

    Args:
        lower: argument of the tanh at the start, from -100 to 10; a smaller value delays the fall.
        upper: argument at the end, above `lower` and at most 10; a smaller value ends higher: 3 ends at 0.25 % of the
            peak.
    """

    lower: float = -6.0
    upper: float = 3.0

    def __post_init__(self) -> None:
        args = Arguments(self.key)
        lower = args.number("lower", self.lower, -100.0, 10.0)
        upper = args.number("upper", self.upper, -100.0, 10.0)
        if upper <= lower:
            args.wrong("upper", self.upper, f"expected a number above lower, which is {lower:g}")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return (1 - tanh(lower (1 - p) + upper p)) / (1 - tanh(lower))."""
        progress = phase.progress(step)
        return (1.0 - np.tanh(self.lower * (1.0 - progress) + self.upper * progress)) / (1.0 - np.tanh(self.lower))


@dataclass(frozen=True, init=False)
class Exponential(Shape):
    """gamma^(t / every), where t counts from the start of the phase.

    Args:
        gamma: the factor after each `every`, above 0 and at most 1.
        every: a duration.
        staircase: whether the LR drops at the end of each `every` instead of falling smoothly.
    """

    gamma: float
    every: Duration
    staircase: bool

    def __init__(self, gamma: float = 0.9, every: DurationLike = "1 epoch", staircase: bool = False) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "gamma", args.number("gamma", gamma, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "every", args.duration("every", every))
        object.__setattr__(self, "staircase", args.switch("staircase", staircase))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return gamma^(t / every), with t / every rounded down if it is a staircase."""
        every = max(self.every.interval(phase.horizon), 1)
        periods = phase.elapsed(step) / every
        if self.staircase:
            periods = np.minimum(np.floor(periods), periods_before(phase.steps, every))
        return np.power(self.gamma, periods)

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the end of each `every` inside the phase if it is a staircase."""
        if not self.staircase:
            return ()
        every = max(self.every.interval(phase.horizon), 1)
        return tuple(range(phase.start + every, phase.stop, every)[:MOST_CHANGES])

    def check(self, phase: Phase) -> list[Problem]:
        """Check that `every` has a step and, for a staircase, ends inside the phase."""
        problems: list[Problem] = []
        every = count_steps(self.every, phase.horizon, "every", problems)
        if every == 0:
            problems.append(Problem("every", "is shorter than one step", str(self.every)))
        elif every is not None and self.staircase and every >= phase.steps:
            problems.append(never_falls(self.every, every, phase))
        elif every is not None and self.staircase:
            problems += too_many_changes("every", self.every, periods_before(phase.steps, every))
        return problems


@dataclass(frozen=True, init=False)
class InverseTime(Shape):
    """(1 + gamma t / every)^-power, where t counts from the start of the phase.

    Caffe's `inv`, Jia et al., 2014, arXiv:1408.5093.

    Args:
        gamma: the rate of the fall, above 0; with 1 and a power of 1, half the peak after one `every`, a third after
            two.
        power: above 0.
        every: a duration, the unit of time of gamma.
    """

    gamma: float
    power: float
    every: Duration

    def __init__(self, gamma: float = 1.0, power: float = 0.75, every: DurationLike = "10%") -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "gamma", args.number("gamma", gamma, 0.0, math.inf, open_low=True))
        object.__setattr__(self, "power", args.number("power", power, 0.0, math.inf, open_low=True))
        object.__setattr__(self, "every", args.duration("every", every))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return (1 + gamma t / every)^-power."""
        every = max(self.every.interval(phase.horizon), 1)
        return np.power(1.0 + self.gamma * phase.elapsed(step) / every, -self.power)

    def check(self, phase: Phase) -> list[Problem]:
        """Check that `every` has a step."""
        problems: list[Problem] = []
        if count_steps(self.every, phase.horizon, "every", problems) == 0:
            problems.append(Problem("every", "is shorter than one step", str(self.every)))
        return problems


@dataclass(frozen=True, init=False)
class InverseSqrt(Shape):
    """sqrt(s / (s + t)), where s is the timescale and t counts from the start of the phase.

    Raffel et al., T5, 2020, arXiv:1910.10683. If the timescale is the warmup, it is the Noam decay (Vaswani et al.,
    2017, arXiv:1706.03762): the inverse square root of the step.

    Args:
        timescale: a duration, after which the multiplier is sqrt(1/2); None: the length of the warmup.
    """

    timescale: Duration | None

    def __init__(self, timescale: DurationLike | None = None) -> None:
        args = Arguments(self.key)
        read = None if timescale is None else args.duration("timescale", timescale)
        object.__setattr__(self, "timescale", read)
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return sqrt(s / (s + t))."""
        timescale = phase.start if self.timescale is None else self.timescale.interval(phase.horizon)
        timescale = max(timescale, 1)
        return np.sqrt(timescale / (timescale + phase.elapsed(step)))

    def check(self, phase: Phase) -> list[Problem]:
        """Check that the timescale has a step, or that there is a warmup to take it from."""
        problems: list[Problem] = []
        if self.timescale is None:
            if phase.start == 0:
                message = "is the length of the warmup by default, and the shape follows no warmup"
                problems.append(Problem("timescale", message, None, "give a warmup, or a timescale such as 5%"))
        elif count_steps(self.timescale, phase.horizon, "timescale", problems) == 0:
            problems.append(Problem("timescale", "is shorter than one step", str(self.timescale)))
        return problems


@dataclass(frozen=True, init=False)
class Power(Shape):
    """min(1, (t / after)^-power), where t counts from the start of the run.

    Shen et al., power scheduler, 2024, arXiv:2408.13359: min(lr, B a n^-0.51) after n samples or tokens, in batches of
    B, so `after` is where B a n^-0.51 is the peak LR.

    Args:
        after: a duration from the start of the run, up to which the LR is at its peak.
        power: above 0.
    """

    after: Duration
    power: float

    def __init__(self, after: DurationLike = "10%", power: float = 0.51) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "after", args.duration("after", after))
        object.__setattr__(self, "power", args.number("power", power, 0.0, math.inf, open_low=True))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return min(1, (t / after)^-power)."""
        after = max(float(self.after.exact(phase.horizon)), 1e-3)  # not rounded, as the formula is not
        return np.power(np.maximum(np.clip(step, phase.start, phase.stop), after) / after, -self.power)

    def check(self, phase: Phase) -> list[Problem]:
        """Check that the LR is at its peak when the shape starts, and falls before it ends."""
        problems: list[Problem] = []
        after = count_steps(self.after, phase.horizon, "after", problems)
        if after is not None and after < max(phase.start, 1):
            message = f"is step {after}, and the warmup ends at step {phase.start}: the peak would never be reached"
            problems.append(Problem("after", message if after else "is shorter than one step", str(self.after)))
        elif after is not None and after >= phase.stop:
            message = f"is step {after}, but the shape ends at {phase.stop}: the LR would never fall"
            problems.append(Problem("after", message, str(self.after), "schedule=constant stays at its peak"))
        return problems

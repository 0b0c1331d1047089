"""Cyclic shapes, which rise again after a fall: warm restarts, triangular cycles and one-cycle; at most the peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments, count_steps
from lrflow.schedules.curve import MOST_CHANGES, Shape, too_many_changes
from lrflow.schedules.time import Duration, DurationLike, Floats, Phase
from lrflow.wording import counted


@dataclass(frozen=True, init=False)
class WarmRestarts(Shape):
    """Cosines one after the other, each starting at the peak again.

    Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983.

    The run ends where a cosine ends: a cycle that would not end within the phase is left out, and the cycle before it
    is stretched to the end of the phase.

    Args:
        period: a duration, the length of the first cycle.
        multiplier: the length of each cycle over the length of the one before it, at least 1.
        decay: the peak of each cycle as a fraction of the one before it, above 0 and at most 1.
        restart_warmup: a duration, part of the cycle, over which each cycle but the first rises linearly to its peak,
            as in a schedule's warmup.
    """

    lands: ClassVar[bool] = True

    period: Duration
    multiplier: float
    decay: float
    restart_warmup: Duration

    def __init__(
        self,
        period: DurationLike = "25%",
        multiplier: float = 1.0,
        decay: float = 1.0,
        restart_warmup: DurationLike = 0,
    ) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "period", args.duration("period", period))
        object.__setattr__(self, "multiplier", args.number("multiplier", multiplier, 1.0, math.inf))
        object.__setattr__(self, "decay", args.number("decay", decay, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "restart_warmup", args.duration("restart_warmup", restart_warmup))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return decay^cycle (1 + cos(pi p)) / 2, where p is the elapsed share of the cycle."""
        edges = self._edges(phase)
        elapsed = phase.elapsed(step)
        cycle = np.minimum(np.searchsorted(edges, elapsed, side="right"), len(edges) - 1) - 1
        since, steps = elapsed - edges[cycle], edges[cycle + 1] - edges[cycle]
        warmup = np.where(cycle > 0, np.minimum(self.restart_warmup.interval(phase.horizon), steps - 1.0), 0.0)
        falling = 0.5 * (1.0 + np.cos(math.pi * (np.maximum(since - warmup, 0.0) / (steps - warmup))))
        rising = (1.0 + since) / (1.0 + warmup)  # in equal steps from 1 / (warmup + 1)
        return np.where(since < warmup, rising, falling) * np.power(self.decay, cycle.astype(np.float64))

    def _edges(self, phase: Phase) -> Floats:
        """Return the start of each cycle and the end of the last one, in steps from the phase's start."""
        period = max(self.period.interval(phase.horizon), 1)
        most = min(phase.steps // period + 1, self._longest_count(phase, period), MOST_CHANGES + 2)
        with np.errstate(over="ignore"):  # the length of a late cycle may exceed the range of a float
            steps = np.floor(period * np.power(self.multiplier, np.arange(float(most))) + 0.5)
        starts = np.cumsum(np.minimum(steps, phase.steps + 1.0))
        inside = starts[starts <= phase.steps][:-1]  # a cycle from the last start would not end in time
        return np.concatenate(([0.0], inside, [max(phase.steps, 1.0)]))

    def _longest_count(self, phase: Phase, period: int) -> int:
        """Return a number of cycles that is certainly longer than the phase; the cycles may grow quickly."""
        if self.multiplier == 1.0:
            return phase.steps // period + 1
        return math.ceil(math.log(2.0 * phase.steps / period + 1.0) / math.log(self.multiplier)) + 3

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the steps of the restarts."""
        return tuple(phase.start + int(edge) for edge in self._edges(phase)[1:-1])

    def check(self, phase: Phase) -> list[Problem]:
        """Check that the period ends inside the phase, and that the warmup of a restart fits into its cycle."""
        problems: list[Problem] = []
        period = count_steps(self.period, phase.horizon, "period", problems)
        warmup = count_steps(self.restart_warmup, phase.horizon, "restart_warmup", problems)
        if period is None or warmup is None:
            return problems
        cycles = np.diff(self._edges(phase))
        if period == 0:
            problems.append(Problem("period", "is shorter than one step", str(self.period)))
        elif len(cycles) == 1:
            message = f"is {counted(period, 'step')}, so no second cycle ends by step {phase.stop}: there is no restart"
            problems.append(Problem("period", message, str(self.period)))
        elif warmup >= cycles[1]:
            message = f"is {counted(warmup, 'step')}, but the first cycle after a restart has only {cycles[1]:.0f}"
            problems.append(Problem("restart_warmup", message, str(self.restart_warmup)))
        elif len(cycles) > MOST_CHANGES:
            problems += too_many_changes("period", self.period, phase.steps // period)
        return problems


@dataclass(frozen=True, init=False)
class Cyclical(Shape):
    """Linear rises to the peak and falls from it, repeated.

    Smith, cyclical learning rates, 2017, arXiv:1506.01186.

    With gamma 1 it is Smith's `triangular`, with 0.5 his `triangular2`, and with `smooth` his `exp_range`, except that
    the first peak is at 1, not below it.

    Args:
        cycle: a duration, one rise and one fall, at least two steps.
        low: fraction of the peak at which a cycle starts and ends, from 0 to 1 or in percent.
        rise: the share of a cycle that rises, from 0 to 1 or in percent; the rise and the fall have at least one step
            each.
        gamma: the factor on the height above `low` after each cycle, above 0 and at most 1.
        smooth: whether gamma is applied gradually at every step after the first peak, instead of once per cycle.
    """

    cycle: Duration
    low: float
    rise: float
    gamma: float
    smooth: bool

    def __init__(
        self,
        cycle: DurationLike = "20%",
        low: float | str = 0.1,
        rise: float | str = 0.5,
        gamma: float = 1.0,
        smooth: bool = False,
    ) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "cycle", args.duration("cycle", cycle))
        object.__setattr__(self, "low", args.share("low", low))
        object.__setattr__(self, "rise", args.share("rise", rise))
        object.__setattr__(self, "gamma", args.number("gamma", gamma, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "smooth", args.switch("smooth", smooth))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return low + (1 - low) x gamma^cycle, where x goes from 0 to 1 and back within a cycle."""
        up, down = self._ways(phase)
        elapsed = phase.elapsed(step)
        cycle = np.floor(elapsed / (up + down))
        since = elapsed - cycle * (up + down)
        way = np.where(since < up, since / up, (up + down - since) / down)
        shrunk = np.maximum(elapsed - up, 0.0) / (up + down) if self.smooth else cycle
        return self.low + (1.0 - self.low) * way * np.power(self.gamma, shrunk)

    def _ways(self, phase: Phase) -> tuple[int, int]:
        """Return how many steps of a cycle rise, and how many fall."""
        steps = max(self.cycle.interval(phase.horizon), 2)
        up = min(max(math.floor(steps * self.rise + 0.5), 1), steps - 1)
        return up, steps - up

    def check(self, phase: Phase) -> list[Problem]:
        """Check that a cycle has a rise and a fall, and reaches its peak inside the phase."""
        problems: list[Problem] = []
        steps = count_steps(self.cycle, phase.horizon, "cycle", problems)
        if steps is None:
            return problems
        peak = phase.start + self._ways(phase)[0]
        if steps < 2:
            problems.append(
                Problem("cycle", f"is {counted(steps, 'step')}, but needs two: one up, one down", str(self.cycle))
            )
        elif peak >= phase.stop:
            message = f"is {steps} steps, so the first peak would be at step {peak}, but the shape ends at {phase.stop}"
            problems.append(Problem("cycle", message, str(self.cycle)))
        return problems


@dataclass(frozen=True, init=False)
class OneCycle(Shape):
    """One rise to the peak, then a fall to far below the starting value.

    Smith and Topin, super-convergence, 2018, arXiv:1708.07120.

    It contains its own rise, so it needs no warmup.

    Args:
        rise: a duration, from the phase's start to the peak, at least one step.
        start: fraction of the peak at the phase's start, from 0 to 1 or in percent.
        end: fraction of the peak at the phase's end, from 0 to 1 or in percent.
        curve: of the rise and the fall: `cosine` (as in fastai and torch) or `linear` (as in the paper).
    """

    rise: Duration
    start: float
    end: float
    curve: str

    def __init__(
        self, rise: DurationLike = "30%", start: float | str = 0.04, end: float | str = 4e-6, curve: str = "cosine"
    ) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "rise", args.duration("rise", rise))
        object.__setattr__(self, "start", args.share("start", start))
        object.__setattr__(self, "end", args.share("end", end))
        object.__setattr__(self, "curve", args.choice("curve", curve, ("cosine", "linear")))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return the multipliers: from `start` to 1 over the rise, then from 1 to `end`."""
        rise = min(max(self.rise.steps(phase.horizon, phase.start), 1), max(phase.steps - 1, 1))
        elapsed = phase.elapsed(step)
        rising = self.start + (1.0 - self.start) * self._eased(np.minimum(elapsed / rise, 1.0))
        left = 1.0 - np.maximum(elapsed - rise, 0.0) / max(phase.steps - rise, 1)
        return np.where(elapsed < rise, rising, self.end + (1.0 - self.end) * self._eased(left))

    def _eased(self, way: Floats) -> Floats:
        """Return the value of the curve at a fraction `way` of it, from 0 at 0 to 1 at 1."""
        return way if self.curve == "linear" else 0.5 * (1.0 - np.cos(math.pi * way))

    def check(self, phase: Phase) -> list[Problem]:
        """Check that the rise has a step and leaves steps for the fall."""
        problems: list[Problem] = []
        rise = count_steps(self.rise, phase.horizon, "rise", problems)
        if rise == 0:
            problems.append(Problem("rise", "is shorter than one step", str(self.rise)))
        elif rise is not None and rise >= phase.steps:
            message = (
                f"is {counted(rise, 'step')}, but there are only {phase.steps} from step {phase.start} to {phase.stop}"
            )
            problems.append(Problem("rise", message, str(self.rise), "the LR would never come down from its peak"))
        return problems

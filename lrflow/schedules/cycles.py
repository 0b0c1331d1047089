"""Cycles: shapes that rise again, once or over and over; never above the peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Fields, length
from lrflow.schedules.base import Shape
from lrflow.schedules.time import Duration, DurationLike, Floats, Phase


@dataclass(frozen=True, init=False)
class WarmRestarts(Shape):
    """Cosines one after the other, each starting at the peak again.

    Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983.

    The run ends where a cosine does: a cycle that would not be over in time is not begun, and the one before it is
    stretched to the end of the phase.

    Args:
        period: a duration, the length of the first cycle.
        multiplier: how much longer each cycle is than the one before it, at least 1.
        decay: the peak of each cycle as a fraction of the one before it, above 0 and at most 1.
        restart_warmup: a duration over which each cycle but the first rises to its peak in a straight line, as a
            schedule's warmup does; part of the cycle.
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
        fields = Fields(self.key)
        object.__setattr__(self, "period", fields.duration("period", period))
        object.__setattr__(self, "multiplier", fields.number("multiplier", multiplier, 1.0, math.inf))
        object.__setattr__(self, "decay", fields.number("decay", decay, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "restart_warmup", fields.duration("restart_warmup", restart_warmup))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """decay^cycle (1 + cos(pi p)) / 2, p the share of the cycle that is over."""
        edges = self._edges(phase)
        elapsed = phase.elapsed(step)
        cycle = np.minimum(np.searchsorted(edges, elapsed, side="right"), len(edges) - 1) - 1
        since, steps = elapsed - edges[cycle], edges[cycle + 1] - edges[cycle]
        warmup = np.where(cycle > 0, np.minimum(self.restart_warmup.steps(phase.horizon), steps - 1.0), 0.0)
        falling = 0.5 * (1.0 + np.cos(math.pi * (np.maximum(since - warmup, 0.0) / (steps - warmup))))
        rising = (1.0 + since) / (1.0 + warmup)  # from 1 / (warmup + 1) in equal rises
        return np.where(since < warmup, rising, falling) * np.power(self.decay, cycle.astype(np.float64))

    def _edges(self, phase: Phase) -> Floats:
        """Where each cycle starts and the last one ends, from the phase's start."""
        period = max(self.period.steps(phase.horizon), 1)
        most = phase.steps // period + 1
        with np.errstate(over="ignore"):  # a cycle may be longer than any run
            steps = np.floor(period * np.power(self.multiplier, np.arange(float(most))) + 0.5)
        starts = np.cumsum(np.minimum(steps, phase.steps + 1.0))
        inside = starts[starts <= phase.steps][:-1]  # one starts where the last ends, that has room to end as well
        return np.concatenate(([0.0], inside, [max(phase.steps, 1.0)]))

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The restarts."""
        return tuple(phase.start + int(edge) for edge in self._edges(phase)[1:-1])

    def check(self, phase: Phase) -> list[Problem]:
        """The period must be a step at least, and come round; the warmup of a restart must fit into its cycle."""
        problems: list[Problem] = []
        period = length(self.period, phase.horizon, "period", problems)
        warmup = length(self.restart_warmup, phase.horizon, "restart_warmup", problems)
        if period is None or warmup is None:
            return problems
        cycles = np.diff(self._edges(phase))
        if period == 0:
            problems.append(Problem("period", "is shorter than one step", str(self.period)))
        elif len(cycles) == 1:
            message = f"is {period} steps, so no second cycle is over by step {phase.stop}: there is no restart"
            problems.append(Problem("period", message, str(self.period)))
        elif warmup >= cycles[1]:
            message = f"is {warmup} steps, but the first cycle that restarts has only {cycles[1]:.0f}"
            problems.append(Problem("restart_warmup", message, str(self.restart_warmup)))
        return problems


@dataclass(frozen=True, init=False)
class Cyclical(Shape):
    """Straight up to the peak and down again, over and over.

    Smith, cyclical learning rates, 2017, arXiv:1506.01186.

    With gamma 1 it is Smith's `triangular`, with 0.5 his `triangular2`, and smooth his `exp_range`, except that the
    first peak stands at 1 and not below it.

    Args:
        cycle: a duration, up and down, at least two steps.
        low: fraction of the peak at which a cycle starts and ends, from 0 to 1 or in percent.
        rise: the share of a cycle that goes up, from 0 to 1 or in percent; one step at least goes each way.
        gamma: the factor of the rise above `low` after each cycle, above 0 and at most 1.
        smooth: the factor grows with every step after the first peak, instead of from cycle to cycle.
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
        fields = Fields(self.key)
        object.__setattr__(self, "cycle", fields.duration("cycle", cycle))
        object.__setattr__(self, "low", fields.share("low", low))
        object.__setattr__(self, "rise", fields.share("rise", rise))
        object.__setattr__(self, "gamma", fields.number("gamma", gamma, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "smooth", bool(smooth))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """low + (1 - low) x gamma^cycle, x the way up or down."""
        up, down = self._ways(phase)
        elapsed = phase.elapsed(step)
        cycle = np.floor(elapsed / (up + down))
        since = elapsed - cycle * (up + down)
        way = np.where(since < up, since / up, (up + down - since) / down)
        shrunk = np.maximum(elapsed - up, 0.0) / (up + down) if self.smooth else cycle
        return self.low + (1.0 - self.low) * way * np.power(self.gamma, shrunk)

    def _ways(self, phase: Phase) -> tuple[int, int]:
        """The steps of a cycle that go up, and those that go down."""
        steps = max(self.cycle.steps(phase.horizon), 2)
        up = min(max(math.floor(steps * self.rise + 0.5), 1), steps - 1)
        return up, steps - up

    def check(self, phase: Phase) -> list[Problem]:
        """A cycle must go up and down, and reach its peak inside the phase."""
        problems: list[Problem] = []
        steps = length(self.cycle, phase.horizon, "cycle", problems)
        if steps is None:
            return problems
        peak = phase.start + self._ways(phase)[0]
        if steps < 2:
            problems.append(Problem("cycle", f"is {steps} steps, but needs two: up and down", str(self.cycle)))
        elif peak >= phase.stop:
            message = f"is {steps} steps, so the first peak would be at step {peak}, but the shape ends at {phase.stop}"
            problems.append(Problem("cycle", message, str(self.cycle)))
        return problems


@dataclass(frozen=True, init=False)
class OneCycle(Shape):
    """Once up to the peak, and then down to far below where it came from.

    Smith and Topin, super-convergence, 2018, arXiv:1708.07120.

    It has its rise in itself, so it wants no warmup.

    Args:
        rise: a duration, from the phase's start to the peak, at least one step.
        start: fraction of the peak at the phase's start, from 0 to 1 or in percent.
        end: fraction of the peak at the phase's end, from 0 to 1 or in percent.
        curve: `cosine` (as fastai and torch have it) or `linear` (as the paper has it), both ways.
    """

    rise: Duration
    start: float
    end: float
    curve: str

    def __init__(
        self, rise: DurationLike = "30%", start: float | str = 0.04, end: float | str = 4e-6, curve: str = "cosine"
    ) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "rise", fields.duration("rise", rise))
        object.__setattr__(self, "start", fields.share("start", start))
        object.__setattr__(self, "end", fields.share("end", end))
        object.__setattr__(self, "curve", fields.choice("curve", curve, ("cosine", "linear")))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """From `start` to 1 over the rise, from 1 to `end` over the rest."""
        rise = min(max(self.rise.steps(phase.horizon), 1), max(phase.steps - 1, 1))
        elapsed = phase.elapsed(step)
        rising = self.start + (1.0 - self.start) * self._eased(np.minimum(elapsed / rise, 1.0))
        left = 1.0 - np.maximum(elapsed - rise, 0.0) / max(phase.steps - rise, 1)
        return np.where(elapsed < rise, rising, self.end + (1.0 - self.end) * self._eased(left))

    def _eased(self, way: Floats) -> Floats:
        """From 0 at 0 to 1 at 1, on the curve."""
        return way if self.curve == "linear" else 0.5 * (1.0 - np.cos(math.pi * way))

    def check(self, phase: Phase) -> list[Problem]:
        """The rise must be a step at least, and leave room to come down."""
        problems: list[Problem] = []
        rise = length(self.rise, phase.horizon, "rise", problems)
        if rise == 0:
            problems.append(Problem("rise", "is shorter than one step", str(self.rise)))
        elif rise is not None and rise >= phase.steps:
            message = f"is {rise} steps, but there are only {phase.steps} from step {phase.start} to {phase.stop}"
            problems.append(Problem("rise", message, str(self.rise), "the LR would never come down from its peak"))
        return problems

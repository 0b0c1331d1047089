"""The metric of a sweep against its learning rate: points, curves, and what is read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lrflow.metric import is_loss
from lrflow.sweeps.recorded import TrialResult, Value
from lrflow.sweeps.results import SweepResults
from lrflow.tuning.valley import Valley


@dataclass(frozen=True)
class Point:
    """What the trials at one learning rate ended at.

    Args:
        lr: the LR; of several that lie close together their geometric mean.
        tried: an LR that was tried: that of its best trial.
        cost: their mean metric, turned so that less is better; infinite where half of them diverged.
        error: its standard error; not a number of a single trial.
        trials: all of them.
        diverged: how many.
    """

    lr: float
    tried: float
    cost: float
    error: float
    trials: tuple[TrialResult, ...]
    diverged: int


@dataclass(frozen=True)
class Basin:
    """The learning rates around the best at which the metric is worse by no more than a margin.

    Args:
        low, high: its ends.
        closed: whether an LR below it was tried, and one above it.
    """

    low: float
    high: float
    closed: tuple[bool, bool]

    @property
    def decades(self) -> float:
        """Its width."""
        return math.log10(self.high / self.low)


@dataclass(frozen=True)
class LRCurve:
    """The metric against the learning rate, for one choice of everything else that was swept.

    Args:
        name: what was chosen, `sgd, cosine`; empty where nothing else was swept.
        given: the same by key.
        points: by rising LR; none where every trial was pruned.
        valley: where it is best, in decades of the LR; None: every LR diverged or was pruned.
        basin: how far off the LR may be set.
        sensitivity: mean of min(loss, initial loss) over the LRs of the sweep, less the best loss (Wortsman et al.,
            2023, 2309.14322); None: the metric is no loss, there is one LR, or bad LRs were pruned.
        doubts: why the answer is not to be trusted, each a sentence.
    """

    name: str
    given: Mapping[str, Value]
    points: tuple[Point, ...]
    valley: Valley | None
    basin: Basin | None
    sensitivity: float | None
    doubts: tuple[str, ...]

    @property
    def lr(self) -> float:
        """The best LR: fitted, or the best of those that were tried."""
        if self.valley is None:
            return math.nan
        fitted = self.valley.parabola is not None
        return 10.0**self.valley.at if fitted else min(self.points, key=lambda point: point.cost).tried

    @property
    def interval(self) -> tuple[float, float]:
        """The LRs that are as good."""
        low, high = self.valley.interval if self.valley else (math.nan, math.nan)
        return 10.0**low, 10.0**high

    @property
    def told(self) -> str:
        """The interval in words."""
        low, high = (f"{end:.3g}" for end in self.interval)
        fitted = self.valley and self.valley.parabola
        return f"as good from {low} to {high}" if fitted else f"somewhere from {low} to {high}"

    @property
    def cost(self) -> float:
        """The best mean among its points."""
        return min((point.cost for point in self.points), default=math.inf)

    def fitted(self) -> list[tuple[float, float]]:
        """LRs of the interval and the costs that the parabola has there; empty where none was fitted."""
        if self.valley is None or self.valley.parabola is None:
            return []
        positions = np.linspace(*self.valley.interval, 21)
        costs = np.polyval(self.valley.parabola, positions - self.valley.best)
        return list(zip((10.0**positions).tolist(), costs.tolist(), strict=True))

    def inside_basin(self) -> list[float]:
        """The LRs within the basin, its ends among them."""
        if self.basin is None:
            return []
        low, high = self.basin.low, self.basin.high
        ended = (point.lr for point in self.points if math.isfinite(point.cost))
        return [low, *(lr for lr in ended if low < lr < high), high]


@dataclass(frozen=True)
class Analysis:
    """What a sweep says about the learning rate.

    Args:
        sweep: that was read.
        lr_key: the LR that was swept.
        curves: the best first.
        margin: how much worse than the best of its curve a metric is within a basin, as it was asked for.
        start: the metric without training: the loss before the first step, or the worst of all trials.
        averaged: numbers that were drawn beside the LRs, and are averaged over.
        pruned: trials that were given up early: they are shown, and bend no curve.
    """

    sweep: SweepResults
    lr_key: str
    curves: tuple[LRCurve, ...]
    margin: str | float
    start: float
    averaged: tuple[str, ...]
    pruned: tuple[TrialResult, ...] = ()

    @property
    def measures_sensitivity(self) -> bool:
        """Whether any curve has a sensitivity."""
        return any(curve.sensitivity is not None for curve in self.curves)

    def explained(self) -> list[str]:
        """What the columns `basin` and `sensitivity` mean, a sentence each."""
        margin = f"{self.margin} of what training gains" if "%" in str(self.margin) else str(self.margin)
        known = [f"Basin: the LRs at which {self.sweep.metric} is worse than its best by no more than {margin}."]
        if self.measures_sensitivity:
            known.append("Sensitivity: the mean loss over all LRs tried, less the best; 0: any of them would do.")
        return known

    def margin_of(self, curve: LRCurve) -> float:
        """How much worse than its best the metric of a curve is at the ends of its basin, at most."""
        allowed, is_share = read_margin(self.margin)
        return allowed * abs(self.start - self.metric(curve.cost)) if is_share else allowed

    def top(self, column: str) -> float:
        """What of a column of losses is worth looking at: not much more than where training starts."""
        of_losses = is_loss(column) and is_loss(self.sweep.metric) and self.start > 0
        return 2 * self.start if of_losses else math.inf

    def metric(self, cost: float) -> float:
        """A cost as the metric has it, and a metric as a cost."""
        return self.sweep.objectives[0].cost(cost)

    def given_up(self) -> list[tuple[float, float, TrialResult]]:
        """The pruned trials as they are drawn: the LR, and the metric that it was given up with, each.

        What is too far off to be worth looking at is moved to where that begins.
        """
        name = self.sweep.metric
        ended = [
            self.metric(point.cost) for curve in self.curves for point in curve.points if math.isfinite(point.cost)
        ]
        top = max([self.top(name), *ended])
        known = [
            (trial.rate(self.lr_key) or math.nan, trial.metrics.get(name, math.nan), trial) for trial in self.pruned
        ]
        return [(lr, min(value, top), trial) for lr, value, trial in known if math.isfinite(value)]


def read_margin(margin: str | float) -> tuple[float, bool]:
    """How much worse a metric may be, and whether that is a share of what training gains."""
    if isinstance(margin, str) and margin.endswith("%"):
        return float(margin.removesuffix("%")) / 100, True
    return float(margin), False

"""The analysis of a sweep: the metric against the LR, the best LR, its interval, its basin and its sensitivity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrflow.metric import is_loss
from lrflow.sweeps.bootstrap import LEVEL, interval_over_seeds
from lrflow.sweeps.repeats import Spread, repeats
from lrflow.sweeps.results import SweepResults, TrialResult, Value, number_or_none
from lrflow.tuning.confirmation import FIT_RADIUS, MIN_DISTANCE, Minimum, fit_parabola

MARGIN = "5%"  # width of a basin, as a share of what training gains
MIN_BASIN = 3  # LRs with a finite metric; between fewer, the ends of a basin say nothing
MIN_LRS = 4  # with a finite metric; a parabola is not fitted to fewer
MAX_LEVELS = 6  # values of a swept number; one with more is averaged over, one with fewer has a curve per value
MERGE_WITHIN = MIN_DISTANCE / 2  # decades; LRs that are closer are merged into one point
RADIUS = FIT_RADIUS + 0.03  # decades around the best LR; the LRs of a grid 1, 3, 10, 30 are up to 0.52 apart
FIT_HEIGHT = 0.25  # share of the way from the best metric to the start of training; higher points are not fitted


def analyse(sweep: SweepResults, margin: str | float = MARGIN) -> Analysis | None:
    """Analyse the LR of a sweep.

    Args:
        sweep: the results; the first objective counts.
        margin: how much worse than the best the metric may be within a basin: a difference, or a share of what training
            gains. The gain is measured from the initial loss, or from the worst trial if the metric is not a loss.

    Returns:
        the analysis; None: no LR was swept, or no trial has finished.
    """
    allowed = read_margin(margin)
    key = sweep.lr_key
    with_lr = [trial for trial in sweep.runs if trial.rate(key) is not None]
    known = [trial for trial in with_lr if not math.isnan(sweep.cost(trial))]
    if key is None or not known:
        return None
    pruned = [trial for trial in with_lr if trial.status == "pruned"]
    others = [name for name in sweep.keys if name != key and not repeats(name)]
    chosen = [name for name in others if _is_choice(name, key, known)]
    initial = _initial_loss(sweep) if sweep.mode == "min" and is_loss(sweep.metric) else None
    finite = [cost for trial in known if math.isfinite(cost := sweep.cost(trial))]
    worst = initial if initial is not None else max(finite, default=math.nan)
    trials_by_choice: dict[tuple[Value, ...], list[TrialResult]] = {}
    for trial in [*known, *pruned]:
        trials_by_choice.setdefault(tuple(trial.given[name] for name in chosen), []).append(trial)
    curves = [
        _curve(sweep, key, dict(zip(chosen, choice, strict=True)), trials, allowed, initial, worst)
        for choice, trials in trials_by_choice.items()
    ]
    averaged = tuple(name for name in others if name not in chosen)
    start = sweep.objectives[0].cost(worst)
    ranked = tuple(sorted(curves, key=lambda curve: curve.cost))
    return Analysis(sweep, key, ranked, margin, start, averaged, tuple(pruned))


def read_margin(margin: str | float) -> tuple[float, bool]:
    """Return how much worse a metric may be, and whether that is a share of what training gains."""
    if isinstance(margin, str) and margin.endswith("%"):
        return float(margin.removesuffix("%")) / 100, True
    return float(margin), False


@dataclass(frozen=True)
class Analysis:
    """The analysis of a sweep by one objective.

    Args:
        sweep: the results.
        lr_key: the key of the swept LR.
        curves: one per choice of the other keys, the best first.
        margin: how much worse than the best of its curve the metric may be within a basin, as configured.
        start: the metric without training: the loss before the first step, or the worst of all trials.
        averaged: swept keys that are averaged over, such as numbers drawn together with the LR.
        pruned: the pruned trials; they are drawn, but do not enter the curves.
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

    @property
    def has_seeds(self) -> bool:
        """Whether any curve has an interval over seeds."""
        return any(curve.seeds for curve in self.curves)

    def explanations(self) -> list[str]:
        """Return the meaning of the columns `basin` and `sensitivity`, one sentence each."""
        margin = f"{self.margin} of what training gains" if "%" in str(self.margin) else str(self.margin)
        sentences = [f"Basin: the LRs at which {self.sweep.metric} is worse than its best by at most {margin}."]
        if self.measures_sensitivity:
            sentences.append("Sensitivity: the mean loss over all LRs tried, minus the best; 0: all are equally good.")
        if self.has_seeds:
            sentences.append(f"Over seeds: the best LR in {LEVEL:.0%} of sweeps whose runs are resampled at each LR.")
        return sentences

    def margin_of(self, curve: LRCurve) -> float:
        """Return how much worse than its best the metric of a curve is at most within its basin."""
        allowed, is_share = read_margin(self.margin)
        return allowed * abs(self.start - self.metric(curve.cost)) if is_share else allowed

    def upper_limit(self, column: str) -> float:
        """Return the highest value of a column to draw: twice the loss at the start; infinite if it is not a loss."""
        are_losses = is_loss(column) and is_loss(self.sweep.metric) and self.start > 0
        return 2 * self.start if are_losses else math.inf

    def metric(self, cost: float) -> float:
        """Convert a cost to the metric, or the metric to a cost."""
        return self.sweep.objectives[0].cost(cost)

    def pruned_points(self) -> list[tuple[float, float, TrialResult]]:
        """Return the LR, the last metric and the trial of each pruned trial, to be drawn.

        Values above the upper limit are lowered to it.
        """
        name = self.sweep.metric
        drawn = [self.metric(point.cost) for curve in self.curves for point in curve.points]
        top = max([self.upper_limit(name), *filter(math.isfinite, drawn)])
        points = [
            (trial.rate(self.lr_key) or math.nan, trial.metrics.get(name, math.nan), trial) for trial in self.pruned
        ]
        return [(lr, min(value, top), trial) for lr, value, trial in points if math.isfinite(value)]


@dataclass(frozen=True)
class LRCurve:
    """The metric against the LR, for one choice of all other swept keys.

    Args:
        name: the choice in words, such as `sgd, cosine`; empty if nothing else was swept.
        given: the choice by key.
        points: by rising LR; empty if every trial was pruned.
        minimum: of the metric over the LR in decades; None: every LR diverged or was pruned.
        basin: the LRs at which the metric is only slightly worse.
        sensitivity: mean of min(loss, initial loss) over the LRs of the sweep, minus the best loss (Wortsman et al.,
            2023, 2309.14322); None: the metric is not a loss, there is one LR, or trials were pruned.
        doubts: why the best LR should not be trusted, one sentence each.
        seeds: the LRs between which the best LR lies if the seeds are drawn again; None: there are too few repeats.
    """

    name: str
    given: Mapping[str, Value]
    points: tuple[Point, ...]
    minimum: Minimum | None
    basin: Basin | None
    sensitivity: float | None
    doubts: tuple[str, ...]
    seeds: tuple[float, float] | None = None

    @property
    def lr(self) -> float:
        """The best LR: the minimum of the parabola, or the best LR tried if no parabola fits."""
        if self.minimum is None:
            return math.nan
        fitted = self.minimum.parabola is not None
        return 10.0**self.minimum.at if fitted else min(self.points, key=lambda point: point.cost).tried

    @property
    def interval(self) -> tuple[float, float]:
        """The LRs that are equally good within the noise; the best LR is one of them."""
        low, high = (10.0**end for end in self.minimum.interval) if self.minimum else (math.nan, math.nan)
        if self.minimum is None or self.minimum.parabola is not None:
            return low, high
        # The best point may be several LRs merged; at the edge of those tried, they are the interval on that side.
        merged = min(self.points, key=lambda point: point.cost).ends
        return min(low, merged[0]), max(high, merged[1])

    @property
    def interval_text(self) -> str:
        """The interval in words."""
        low, high = (f"{end:.3g}" for end in self.interval)
        fitted = self.minimum and self.minimum.parabola
        return f"as good from {low} to {high}" if fitted else f"somewhere from {low} to {high}"

    @property
    def cost(self) -> float:
        """The lowest mean cost of its points."""
        return min((point.cost for point in self.points), default=math.inf)

    def fitted(self) -> list[tuple[float, float]]:
        """Return LRs of the interval with the costs of the parabola; empty if none was fitted."""
        if self.minimum is None or self.minimum.parabola is None:
            return []
        positions = np.linspace(*self.minimum.interval, 21)
        costs = np.polyval(self.minimum.parabola, positions - self.minimum.best)
        return list(zip((10.0**positions).tolist(), costs.tolist(), strict=True))

    def inside_basin(self) -> list[float]:
        """Return the LRs within the basin, including its ends."""
        if self.basin is None:
            return []
        low, high = self.basin.low, self.basin.high
        finite = (point.lr for point in self.points if math.isfinite(point.cost))
        return [low, *(lr for lr in finite if low < lr < high), high]


@dataclass(frozen=True)
class Basin:
    """The LRs around the best at which the metric is worse by at most a margin.

    Args:
        low, high: the ends.
        closed: whether an LR below the basin was tried, and whether one above it was.
    """

    low: float
    high: float
    closed: tuple[bool, bool]

    @property
    def decades(self) -> float:
        """The width in decades."""
        return math.log10(self.high / self.low)


@dataclass(frozen=True)
class Point:
    """The trials at one LR.

    Args:
        lr: the LR; the geometric mean of LRs that are merged because they are close.
        ends: the lowest and the highest of the merged LRs.
        tried: the LR of the best trial.
        cost: the mean metric, such that lower is better; infinite if at least half of the trials diverged.
        error: the standard error of the mean; NaN for a single trial.
        trials: all trials at this LR.
        diverged: the number of trials that diverged.
    """

    lr: float
    ends: tuple[float, float]
    tried: float
    cost: float
    error: float
    trials: tuple[TrialResult, ...]
    diverged: int


def _curve(
    sweep: SweepResults,
    key: str,
    given: Mapping[str, Value],
    trials: Sequence[TrialResult],
    margin: tuple[float, bool],
    initial: float | None,
    worst: float,
) -> LRCurve:
    """Return the curve of the trials with one choice of the other keys."""
    name = ", ".join(_choice_name(other, value) for other, value in given.items() if value is not None)
    points = _points(sweep, key, [trial for trial in trials if trial.status != "pruned"])
    if not points:
        return LRCurve(name, given, points, None, None, None, ("every trial was pruned",))
    costs = {math.log10(point.lr): point.cost for point in points}
    finite = {position: cost for position, cost in costs.items() if math.isfinite(cost)}
    if not finite:
        return LRCurve(name, given, points, None, None, None, ("every LR diverged",))
    best, close, radius, below = _range_to_fit(finite, worst)
    errors = [point.error for point in points if abs(math.log10(point.lr) - best) <= radius and point.error >= 0]
    noise = math.sqrt(float(np.mean(np.square(errors)))) if errors else 0.0
    if close == 3 and not errors:
        # A parabola fits any three points exactly; a wider fit estimates the noise.
        noise = fit_parabola(costs, 2 * radius, below=below).misfit
    minimum = fit_parabola(costs, radius, noise, below)

    def best_of(means: Mapping[float, float]) -> float:
        _, _, radius, below = _range_to_fit({at: cost for at, cost in means.items() if math.isfinite(cost)}, worst)
        return fit_parabola(means, radius, noise, below).at

    runs = {math.log10(point.lr): [sweep.cost(trial) for trial in point.trials] for point in points}
    ends = interval_over_seeds(runs, best_of) if errors else None
    seeds = (10.0 ** ends[0], 10.0 ** ends[1]) if ends else None
    allowed = margin[0] * (worst - finite[best] if margin[1] else 1.0)
    pruned = [trial.rate(key) or math.nan for trial in trials if trial.status == "pruned"]
    sensitivity = None
    if initial is not None and len(costs) > 1 and not pruned:  # pruning leaves mostly good LRs
        share = np.gradient(np.array(list(costs)))
        capped = np.minimum(np.array(list(costs.values())), initial)
        sensitivity = float((share * capped).sum() / share.sum()) - min(finite[best], initial)
    basin = _basin(costs, best, finite[best] + allowed) if len(finite) >= MIN_BASIN else None
    tried = len({trial.rate(key) for point in points if math.isfinite(point.cost) for trial in point.trials})
    doubts = _doubts(points, pruned, minimum, radius, len(finite), tried)
    return LRCurve(name, given, points, minimum, basin, sensitivity, tuple(doubts), seeds)


def _range_to_fit(finite: Mapping[float, float], worst: float) -> tuple[float, int, float, float]:
    """Return the best position, how many are close to it, and radius and upper limit of the costs to be fitted."""
    best = min(finite, key=lambda position: finite[position])
    below = finite[best] + FIT_HEIGHT * (worst - finite[best])
    close = sum(abs(position - best) <= RADIUS and cost < below for position, cost in finite.items())
    radius = 0.0 if len(finite) < MIN_LRS else RADIUS if close >= 3 else 2 * RADIUS
    return best, close, radius, max(below, math.nextafter(finite[best], math.inf))


def _points(sweep: SweepResults, key: str, trials: Sequence[TrialResult]) -> tuple[Point, ...]:
    """Return the trials by rising LR; close LRs are merged."""
    ordered = sorted(((trial.rate(key) or math.nan, trial) for trial in trials), key=lambda pair: pair[0])
    groups: list[list[tuple[float, TrialResult]]] = []
    for lr, trial in ordered:
        if groups and math.log10(lr / groups[-1][0][0]) < MERGE_WITHIN:
            groups[-1].append((lr, trial))
        else:
            groups.append([(lr, trial)])
    points = []
    for group in groups:
        costs = np.array([sweep.cost(trial) for _, trial in group])
        finite = costs[np.isfinite(costs)]
        diverged = len(costs) - len(finite)
        lr = 10.0 ** float(np.mean([math.log10(lr) for lr, _ in group])) if group[0][0] < group[-1][0] else group[0][0]
        error = Spread.of(finite.tolist()).error
        cost = float(finite.mean()) if len(finite) > diverged else math.inf
        tried = min(zip(costs, group, strict=True), key=lambda pair: pair[0])[1][0]
        points.append(
            Point(lr, (group[0][0], group[-1][0]), tried, cost, error, tuple(trial for _, trial in group), diverged)
        )
    return tuple(points)


def _basin(costs: Mapping[float, float], best: float, allowed: float) -> Basin:
    """Return the basin around the best position; its ends are interpolated linearly."""
    ends, closed = [], []
    for outward in (sorted((p for p in costs if p < best), reverse=True), sorted(p for p in costs if p > best)):
        inside, outside = best, None
        for position in outward:
            if costs[position] > allowed:
                outside = position
                break
            inside = position
        end = inside
        if outside is not None and math.isfinite(costs[outside]):
            end += (outside - inside) * (allowed - costs[inside]) / (costs[outside] - costs[inside])
        ends.append(10.0**end)
        closed.append(outside is not None)
    return Basin(ends[0], ends[1], (closed[0], closed[1]))


def _doubts(
    points: Sequence[Point], pruned: Sequence[float], minimum: Minimum, radius: float, finite: int, tried: int
) -> list[str]:
    """Return why the best LR of a curve should not be trusted."""
    doubts = []
    best = min(points, key=lambda point: point.cost)
    if finite < MIN_LRS:
        few = f"{finite} LR{'s are' if finite > 1 else ' is'} too few to fit"
        few = few if tried == finite else f"{tried} LRs, of which {finite} lie apart, are too few to fit"
        doubts.append(f"{few}: the best of those tried is shown")
    elif minimum.parabola is None:
        doubts.append("no parabola fits the LRs around the best: the best of those tried is shown")
    elif radius > RADIUS and all(minimum.bracketed):
        doubts.append("the fit includes LRs up to a decade from the best: closer LRs would be more precise")
    if len(points) > 1 and not all(minimum.bracketed):
        extreme, beyond = ("highest", "above") if minimum.bracketed[0] else ("lowest", "below")
        pruned_beyond = sum(lr > best.lr if minimum.bracketed[0] else lr < best.lr for lr in pruned)
        if pruned_beyond:
            rest = f"the {pruned_beyond} {beyond} it were" if pruned_beyond > 1 else f"the one {beyond} it was"
            doubts.append(f"the best LR, {best.tried:.3g}, is the {extreme} that was not pruned: {rest} pruned")
        else:
            doubts.append(f"the best LR, {best.tried:.3g}, is the {extreme} tried: one {beyond} it may be better")
    if best.diverged:
        doubts.append(f"{best.diverged} of {len(best.trials)} runs at the best LR, {best.tried:.3g}, diverged")
    return doubts


def _is_choice(key: str, lr_key: str, trials: Sequence[TrialResult]) -> bool:
    """Whether each value of a key has its own curve: options, and numbers that were crossed with the LRs.

    Numbers that a sampler draws together with the LR are averaged over.
    """
    values = [trial.given.get(key) for trial in trials]
    if any(value is not None and number_or_none(value) is None for value in values):
        return True
    pairs = {(trial.given.get(lr_key), value) for trial, value in zip(trials, values, strict=True)}
    return len({*values}) <= MAX_LEVELS and len(pairs) >= 2 * len({lr for lr, _ in pairs})


def _choice_name(key: str, value: Value) -> str:
    """Return a choice in words: the name of an option, or a value after the last part of its key."""
    return str(value) if "." not in key else f"{key.rpartition('.')[2]} {value}"


def _initial_loss(sweep: SweepResults) -> float | None:
    """Return the mean training loss of the trials before their first step; None: it is unknown."""
    losses = [first for trial in sweep.runs if (first := trial.first_loss()) is not None]
    return float(np.mean(losses)) if losses else None

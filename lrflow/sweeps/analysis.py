"""The analysis of a sweep: the metric against the LR, the best LR, its interval, its basin and its sensitivity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrflow.metric import is_loss
from lrflow.sweeps.results import SweepResults, TrialResult, Value, number_or_none
from lrflow.tuning.confirmation import FIT_RADIUS, MIN_DISTANCE, Minimum, fit_parabola


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
    valley: Minimum | None
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


MARGIN = "5%"  # how much worse than the best is still good, as a share of what training gains
FEWEST = 4  # LRs that ended well; of fewer, a parabola tells nothing that they do not
LEVELS = 6  # values of a number that make curves of their own; of more, the number is averaged over
TOGETHER = MIN_DISTANCE / 2  # decades: LRs that are closer are one
CLOSE = FIT_RADIUS + 0.03  # decades around the best: those of a grid 1, 3, 10, 30 are up to 0.52 apart
CLIMB = 0.25  # of the way from the best back to where training starts: above it nothing is fitted


def analyse(sweep: SweepResults, margin: str | float = MARGIN) -> Analysis | None:
    """Reads the best learning rate off a sweep.

    Args:
        sweep: that was read.
        margin: how much worse than the best the metric may be within a basin: a difference, or a share of what training
            gains, from where it starts (the worst trial, where the metric is no loss) to the best.

    Returns:
        what it says; None: no LR was swept, or no trial got so far.
    """
    allowed = read_margin(margin)
    key = sweep.lr_key
    rated = [trial for trial in sweep.trials if trial.rate(key) is not None]
    known = [trial for trial in rated if not math.isnan(sweep.cost(trial))]
    if key is None or not known:
        return None
    pruned = [trial for trial in rated if trial.status == "pruned"]
    others = [name for name in sweep.keys if name != key and not name.rpartition(".")[2].endswith("seed")]
    chosen = [name for name in others if _is_choice(name, key, known)]
    initial = _initial_loss(sweep) if sweep.mode == "min" and is_loss(sweep.metric) else None
    ended = [cost for trial in known if math.isfinite(cost := sweep.cost(trial))]
    worst = initial if initial is not None else max(ended, default=math.nan)
    families: dict[tuple[Value, ...], list[TrialResult]] = {}
    for trial in [*known, *pruned]:
        families.setdefault(tuple(trial.given[name] for name in chosen), []).append(trial)
    curves = [
        _curve(sweep, key, dict(zip(chosen, choice, strict=True)), trials, allowed, initial, worst)
        for choice, trials in families.items()
    ]
    averaged = tuple(name for name in others if name not in chosen)
    start = sweep.objectives[0].cost(worst)
    ranked = tuple(sorted(curves, key=lambda curve: curve.cost))
    return Analysis(sweep, key, ranked, margin, start, averaged, tuple(pruned))


def _curve(
    sweep: SweepResults,
    key: str,
    given: Mapping[str, Value],
    trials: Sequence[TrialResult],
    margin: tuple[float, bool],
    initial: float | None,
    worst: float,
) -> LRCurve:
    name = ", ".join(_named(other, value) for other, value in given.items() if value is not None)
    points = _points(sweep, key, [trial for trial in trials if trial.status != "pruned"])
    if not points:
        return LRCurve(name, given, points, None, None, None, ("every trial was pruned",))
    costs = {math.log10(point.lr): point.cost for point in points}
    ended = {position: cost for position, cost in costs.items() if math.isfinite(cost)}
    if not ended:
        return LRCurve(name, given, points, None, None, None, ("every LR diverged",))
    best = min(ended, key=lambda position: ended[position])
    below = ended[best] + CLIMB * (worst - ended[best])
    close = [point for point in points if abs(math.log10(point.lr) - best) <= CLOSE and point.cost < below]
    near = 0.0 if len(ended) < FEWEST else CLOSE if len(close) >= 3 else 2 * CLOSE
    errors = [point.error for point in points if abs(math.log10(point.lr) - best) <= near and point.error >= 0]
    below = max(below, math.nextafter(ended[best], math.inf))
    noise = math.sqrt(float(np.mean(np.square(errors)))) if errors else 0.0
    if len(close) == 3 and not errors:
        # A parabola goes through any three points: how well it fits is told by those further off.
        noise = fit_parabola(costs, 2 * near, below=below).misfit
    valley = fit_parabola(costs, near, noise, below)
    allowed = margin[0] * (worst - ended[best] if margin[1] else 1.0)
    pruned = [trial.rate(key) or math.nan for trial in trials if trial.status == "pruned"]
    sensitivity = None
    if initial is not None and len(costs) > 1 and not pruned:  # the LRs that are left would be the good ones
        share = np.gradient(np.array(list(costs)))
        capped = np.minimum(np.array(list(costs.values())), initial)
        sensitivity = float((share * capped).sum() / share.sum()) - min(ended[best], initial)
    basin = _basin(costs, best, ended[best] + allowed)
    tried = len({trial.rate(key) for point in points if math.isfinite(point.cost) for trial in point.trials})
    doubts = _doubts(points, pruned, valley, near, len(ended), tried)
    return LRCurve(name, given, points, valley, basin, sensitivity, tuple(doubts))


def _points(sweep: SweepResults, key: str, trials: Sequence[TrialResult]) -> tuple[Point, ...]:
    """The trials by rising LR, those of LRs that lie close together as one."""
    placed = sorted(((trial.rate(key) or math.nan, trial) for trial in trials), key=lambda pair: pair[0])
    heaps: list[list[tuple[float, TrialResult]]] = []
    for lr, trial in placed:
        if heaps and math.log10(lr / heaps[-1][0][0]) < TOGETHER:
            heaps[-1].append((lr, trial))
        else:
            heaps.append([(lr, trial)])
    points = []
    for heap in heaps:
        costs = np.array([sweep.cost(trial) for _, trial in heap])
        ended = costs[np.isfinite(costs)]
        lost = len(costs) - len(ended)
        lr = 10.0 ** float(np.mean([math.log10(lr) for lr, _ in heap])) if heap[0][0] < heap[-1][0] else heap[0][0]
        error = float(ended.std(ddof=1)) / math.sqrt(len(ended)) if len(ended) > 1 else math.nan
        cost = float(ended.mean()) if len(ended) > lost else math.inf
        tried = min(zip(costs, heap, strict=True), key=lambda pair: pair[0])[1][0]
        points.append(Point(lr, tried, cost, error, tuple(trial for _, trial in heap), lost))
    return tuple(points)


def _basin(costs: Mapping[float, float], best: float, allowed: float) -> Basin:
    """Around the best, with ends between the last LR within and the first without, by a straight line."""
    ends, closed = [], []
    for further in (sorted((p for p in costs if p < best), reverse=True), sorted(p for p in costs if p > best)):
        inside, out = best, None
        for position in further:
            if costs[position] > allowed:
                out = position
                break
            inside = position
        end = inside
        if out is not None and math.isfinite(costs[out]):
            end += (out - inside) * (allowed - costs[inside]) / (costs[out] - costs[inside])
        ends.append(10.0**end)
        closed.append(out is not None)
    return Basin(ends[0], ends[1], (closed[0], closed[1]))


def _doubts(
    points: Sequence[Point], pruned: Sequence[float], valley: Minimum, near: float, ended: int, tried: int
) -> list[str]:
    doubts = []
    best = min(points, key=lambda point: point.cost)
    if ended < FEWEST:
        few = f"{ended} LR{'s are' if ended > 1 else ' is'} too few to fit"
        few = few if tried == ended else f"{tried} LRs, of which {ended} lie apart, are too few to fit"
        doubts.append(f"{few}: the best of those tried is shown")
    elif valley.parabola is None:
        doubts.append("no parabola fits the LRs around the best: the best of those tried is shown")
    elif near > CLOSE and all(valley.bracketed):
        doubts.append("LRs up to a decade off the best were fitted: closer ones would tell more")
    if len(points) > 1 and not all(valley.bracketed):
        way, beyond = ("highest", "above") if valley.bracketed[0] else ("lowest", "below")
        further = sum(lr > best.lr if valley.bracketed[0] else lr < best.lr for lr in pruned)
        if further:
            told = f"the {further} {beyond} it were pruned" if further > 1 else f"the one {beyond} it was pruned"
            doubts.append(f"{best.tried:.3g}, the {way} LR that was not pruned, was the best: {told}")
        else:
            doubts.append(f"the {way} LR, {best.tried:.3g}, was the best: one {beyond} it may be better")
    if best.diverged:
        doubts.append(f"{best.diverged} of {len(best.trials)} trials at the best LR, {best.tried:.3g}, diverged")
    return doubts


def _is_choice(key: str, lr_key: str, trials: Sequence[TrialResult]) -> bool:
    """Whether the values of a key make curves of their own: options, and numbers that were crossed with the LRs.

    Numbers that a sampler draws beside each LR are averaged over.
    """
    values = [trial.given.get(key) for trial in trials]
    if any(value is not None and number_or_none(value) is None for value in values):
        return True
    pairs = {(trial.given.get(lr_key), value) for trial, value in zip(trials, values, strict=True)}
    return len({*values}) <= LEVELS and len(pairs) >= 2 * len({lr for lr, _ in pairs})


def _named(key: str, value: Value) -> str:
    """A choice in a few words: an option by its name, a value with its key's last word."""
    return str(value) if "." not in key else f"{key.rpartition('.')[2]} {value}"


def _initial_loss(sweep: SweepResults) -> float | None:
    """The mean training loss of the trials before their first step."""
    found = [first for trial in sweep.trials if (first := trial.first_loss()) is not None]
    return float(np.mean(found)) if found else None

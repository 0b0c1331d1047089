"""What a sweep says about the learning rate: the best, how sure that is, and how far off it may be set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lrflow.metric import is_loss
from lrflow.sweeps.curves import Analysis, Basin, LRCurve, Point, read_margin
from lrflow.sweeps.recorded import TrialResult, Value, number_or_none
from lrflow.sweeps.results import SweepResults
from lrflow.tuning.valley import BESIDE, NEAR, Valley, fit_parabola

MARGIN = "5%"  # how much worse than the best is still good, as a share of what training gains
FEWEST = 4  # LRs that ended well; of fewer, a parabola tells nothing that they do not
LEVELS = 6  # values of a number that make curves of their own; of more, the number is averaged over
TOGETHER = BESIDE / 2  # decades: LRs that are closer are one
CLOSE = NEAR + 0.03  # decades around the best: those of a grid 1, 3, 10, 30 are up to 0.52 apart
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
    points: Sequence[Point], pruned: Sequence[float], valley: Valley, near: float, ended: int, tried: int
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

"""The charts of a sweep: metric against LR, Pareto front, learning curves, importances, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from lrflow.display import CURVES, MUTED, scale_of
from lrflow.reports.chart_parts import Axis, Band, Figure, Line, Part, Points, Scale
from lrflow.reports.charts import bars, chart, parallel
from lrflow.sweeps.analysis import Analysis, LRCurve
from lrflow.sweeps.importance import importance, learning_curves
from lrflow.sweeps.results import SweepResults, TrialResult, Value, number_or_none
from lrflow.wording import counted

MAX_NUMBERED = 12  # trials of a Pareto front; a larger front is drawn without the numbers of its trials


def figures(sweep: SweepResults, analyses: Sequence[Analysis], wanted: Collection[str] | None = None) -> list[Figure]:
    """Return all figures of a sweep that it has trials for.

    Args:
        sweep: the results.
        analyses: of the LR, one per objective; empty: no LR was swept.
        wanted: names; importances, which take seconds for hundreds of trials, are left out if none of them is there.
    """
    found = [_front(sweep)] if len(sweep.objectives) == 2 and sweep.ended else []
    found += [_rates(analysis, name) for name, analysis in by_figure(analyses).items()]
    found += _learning(sweep, analyses)
    for objective in sweep.objectives:
        name = f"importance-{objective.name}" if len(sweep.objectives) > 1 else "importance"
        if (wanted is None or name in wanted) and (shares := importance(sweep.by(objective))):
            spec = bars(shares.shares, "share of the variance", percent=True)
            caption = f"{shares.method}, over {counted(shares.trials, 'trial')}."
            height = 80 + 34 * len(shares.shares)
            found.append(Figure(name, f"Importance for {objective.name}", spec, caption, height))
    if len(sweep.keys) > 1 and len(sweep.ended) > 1:
        found.append(_parallel(sweep))
    return found


def by_figure(analyses: Sequence[Analysis]) -> dict[str, Analysis]:
    """Return the analyses by the names of the figures that show them."""
    return {f"lr-{each.sweep.metric}" if len(analyses) > 1 else "lr": each for each in analyses}


def _rates(analysis: Analysis, name: str) -> Figure:
    """Draw the metric against the LR: trials (dots), means (lines, thick within the basin), best LRs (stars).

    Pruned trials are grey, at their last metric; diverged trials are crosses at the worst value of the others.
    """
    costs = [point.cost for curve in analysis.curves for point in curve.points if math.isfinite(point.cost)]
    pruned = analysis.pruned_points()
    values = [*map(analysis.metric, costs), *(value for _, value, _ in pruned)]
    scale = scale_of(values)
    worst = analysis.metric(max(map(analysis.metric, values), default=0.0))
    parts: list[Part] = []
    best = analysis.curves[0]
    if best.fitted():
        parts.append(Band(best.name or "done", *best.interval, opacity=0.12))
    for place, curve in enumerate(analysis.curves):
        parts += _curve(analysis, curve, CURVES[place % len(CURVES)], scale, worst)
    if pruned:
        rates, lasts = [lr for lr, _, _ in pruned], [value for _, value, _ in pruned]
        hints = [hover_text(analysis.sweep, trial) for _, _, trial in pruned]
        parts.append(Points("pruned", rates, lasts, hints, shape="triangle-down", size=70, colour=MUTED, filled=False))
    metric = analysis.sweep.metric
    spec = chart(Axis(analysis.lr_key, "log"), Axis(metric, scale), parts)
    heading = f"{metric} against {analysis.lr_key}"
    answers = (
        f"{curve.name or 'all'}: best LR {curve.lr:.3g}, {curve.interval_text}."
        for curve in analysis.curves
        if curve.minimum
    )
    return Figure(name, heading, spec, _legend(analysis), 440, summary=" ".join([f"{heading}.", *answers]))


def _front(sweep: SweepResults) -> Figure:
    """Draw two objectives against each other: the Pareto front as a line, other trials faint, coloured by their LR."""
    across, up = sweep.objectives
    front = sorted(sweep.front, key=lambda trial: trial.metrics[across.name])
    others = [trial for trial in sweep.ended if trial not in front]
    x, y = ([trial.metrics[each.name] for trial in front] for each in sweep.objectives)
    # The step function that bounds the dominated region.
    steps = "step-after" if across.mode == "min" else "step-before"
    parts: list[Part] = [Line("bound", x, y, colour=MUTED, width=1.5, steps=steps, hover=False)]
    for name, trials, size, opacity in (("others", others, 60, 0.45), ("Pareto front", front, 150, 1.0)):
        parts.append(
            Points(
                name,
                [trial.metrics[across.name] for trial in trials],
                [trial.metrics[up.name] for trial in trials],
                [hover_text(sweep, trial) for trial in trials],
                [str(trial.number) for trial in trials] if trials is front and len(front) <= MAX_NUMBERED else (),
                size=size,
                colour=MUTED,
                opacity=opacity,
                shades=[_rate(trial.rate(sweep.lr_key)) for trial in trials],
            )
        )
    first, second = (Axis(str(o), scale_of(t.metrics[o.name] for t in sweep.ended)) for o in sweep.objectives)
    caption = f"{len(front)} of {len(sweep.trials)} trials cannot be improved in one objective without getting worse in"
    caption = f"{caption} the other." if len(front) > 1 else f"Trial {front[0].number} is the best in both objectives."
    caption += f" The lowest {sweep.lr_key} is blue, the highest red." if sweep.lr_key else ""
    spec = chart(first, second, parts, shade=sweep.lr_key or "", legend=False)
    return Figure("front", "Pareto front", spec, caption, 440)


def _learning(sweep: SweepResults, analyses: Sequence[Analysis]) -> list[Figure]:
    """Draw the learning curves; higher LRs have warmer colours. Values far above those of good trials are cut off."""
    column, curves = learning_curves(sweep)
    if not curves:
        return []
    key, top = (sweep.lr_key, analyses[0].upper_limit(column)) if analyses else (None, math.inf)
    parts = [
        Line(
            f"trial {curve.trial.number}", curve.steps, curve.values, width=1.6, colour=MUTED if key else "",
            shade=_rate(curve.trial.given.get(key)) if key else None, hint=hover_text(sweep, curve.trial),
        )
        for curve in curves
    ]  # fmt: skip
    values = [value for curve in curves for value in curve.values]
    scale, low, high = scale_of(values), min(values), min(max(values), top)
    room = 0.1 * (high - low) if scale == "linear" else 0.0
    axis = Axis(column, scale, (low - room, high) if high < max(values) else None)
    spec = chart(Axis("optimizer step"), axis, parts, shade=key or "", legend=False)
    caption = f"The lowest {key} is blue, the highest red." if key else ""
    return [Figure("learning", "Learning curves", spec, caption, 400)]


def _parallel(sweep: SweepResults) -> Figure:
    """Draw each trial as a line through its values, coloured by its metric."""
    scales = []
    for key in sweep.keys:
        values = [trial.given.get(key) for trial in sweep.ended]
        numbers = [number for value in values if (number := number_or_none(value)) is not None]
        if len(numbers) < len(values):
            scales.append(Scale(key, ["none" if value is None else str(value) for value in values]))
        else:
            scales.append(Scale(key, numbers, min(numbers) > 0 and max(numbers) / min(numbers) > 10))
    objectives = sorted(sweep.objectives, key=lambda each: each.name == sweep.metric)  # the last gives the colour
    for each in objectives:
        metrics = [trial.metrics[each.name] for trial in sweep.ended]
        scales.append(Scale(each.name, metrics, scale_of(metrics) == "log"))
    spec = parallel(scales, [hover_text(sweep, trial) for trial in sweep.ended], objectives[-1].mode == "max")
    caption = f"Each line is a trial, its colour shows {sweep.metric}: blue is best. Drag over axes to select a range."
    return Figure("parallel", "Parallel coordinates", spec, caption, 380)


def hover_text(sweep: SweepResults, trial: TrialResult) -> str:
    """Return the tooltip of a trial: its number, values and metrics, and why it did not finish."""
    given = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in trial.given.items()}
    lines = [f"trial {trial.number}", *(f"{key} = {value}" for key, value in given.items() if value is not None)]
    lines += [f"{name} {trial.metrics[name]:.4g}" for name in sweep.metrics[:4] if name in trial.metrics]
    lines += [(trial.reason or trial.status).partition("\n")[0]] * (trial.status != "finished")
    return "\n".join(lines)


def _curve(analysis: Analysis, curve: LRCurve, colour: str, scale: str, worst: float) -> list[Part]:
    sweep, name = analysis.sweep, curve.name or "done"
    ended = [point for point in curve.points if math.isfinite(point.cost)]
    fitted = [(lr, analysis.metric(cost)) for lr, cost in curve.fitted()]
    means = [(point.lr, analysis.metric(point.cost)) for point in ended]
    inside = curve.inside_basin()
    thick = list(zip(inside, interpolate_line(inside, means, scale), strict=True))
    parts: list[Part] = [
        Line(name, *_columns(thick), colour=colour, width=10, opacity=0.28, hover=False),
        Line(
            name, *_columns(means), colour=colour, width=2, hover=False,
            errors=[point.error if point.error > 0 else 0.0 for point in ended],
        ),
    ]  # fmt: skip
    if fitted:
        parts.append(Line(name, *_columns(fitted), dash="fit", colour=colour, width=1.5, hover=False))
    trials = [(point.lr, trial) for point in curve.points for trial in point.trials]
    finite = [(lr, trial) for lr, trial in trials if math.isfinite(sweep.cost(trial))]
    diverged = [(lr, trial) for lr, trial in trials if sweep.cost(trial) == math.inf]
    values = [trial.metrics[sweep.metric] for _, trial in finite]
    hints = [hover_text(sweep, trial) for _, trial in finite]
    parts.append(Points(name, [lr for lr, _ in finite], values, hints, colour=colour))
    hints = [f"{hover_text(sweep, trial)}\ndiverged" for _, trial in diverged]
    crosses = [lr for lr, _ in diverged]
    parts.append(
        Points(name, crosses, [worst] * len(crosses), hints, shape="x", size=90, colour=colour, opacity=1, filled=False)
    )
    if curve.minimum:
        nearest = min(fitted, key=lambda pair: abs(math.log(pair[0] / curve.lr)))[1] if fitted else None
        best = analysis.metric(curve.cost) if nearest is None else nearest
        hint = f"{curve.name} {curve.lr:.3g}\n{curve.interval_text}".strip()
        parts.append(Points(name, [curve.lr], [best], [hint], shape="star", size=420, colour=colour, opacity=1))
    return parts


def interpolate_line(rates: Sequence[float], line: Sequence[tuple[float, float]], scale: str) -> list[float]:
    """Interpolate a line at these LRs, as it is drawn: straight between its points, over a logarithmic axis.

    Args:
        rates: between the ends of the line.
        line: the LR and the value of each point.
        scale: of the axis of the values, `linear` or `log`.
    """
    if not rates:
        return []
    points = np.array(line, float)
    heights = np.log10(points[:, 1]) if scale == "log" else points[:, 1]
    interpolated = np.interp(np.log10(rates), np.log10(points[:, 0]), heights)
    return (10.0**interpolated if scale == "log" else interpolated).tolist()


def _legend(analysis: Analysis) -> str:
    """Return the meaning of the marks in the figure of the metric against the LR."""
    dots = "runs" if analysis.sweep.has_repeats else "trials"
    sentences = [f"Dots: {dots}. Star: the best LR. Thick line: the basin, where the metric is only slightly worse."]
    if any(point.error > 0 for curve in analysis.curves for point in curve.points):
        sentences.append("Bars: the standard error of a mean over several runs.")
    if any(point.diverged for curve in analysis.curves for point in curve.points):
        sentences.append("Crosses: diverged.")
    if pruned := analysis.pruned_points():
        sentences.append("Grey triangles: pruned trials at their last metric; they are not part of any fit.")
        if lowered := [value for _, value, trial in pruned if trial.metrics[analysis.sweep.metric] > value]:
            sentences.append(f"Those above {max(lowered):.3g} are drawn there.")
    return " ".join(sentences)


def _rate(value: Value) -> float | None:
    number = number_or_none(value)
    return number if number is not None and number > 0 else None


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]

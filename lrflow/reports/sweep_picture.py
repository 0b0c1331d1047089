"""The picture of a sweep (`sweep.png`): the metric against the LR, the Pareto front, the learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lrflow.display import COLD_TO_HOT, CURVES, INK, MUTED, plain_axes, save_figure, scale_of
from lrflow.reports.sweep_charts import MAX_NUMBERED, interpolate_line
from lrflow.sweeps.analysis import Analysis, LRCurve
from lrflow.sweeps.importance import learning_curves
from lrflow.sweeps.results import SweepResults, Value, number_or_none

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WIDE = 300  # ratio of the highest to the lowest value; a wider axis only has ticks at decades


def plot_sweep(sweep: SweepResults, analyses: Sequence[Analysis], path: Path) -> Path:
    """Draw each objective against the LR, the Pareto front of two objectives, and the learning curves.

    Args:
        sweep: the results.
        analyses: one per objective; empty: no LR was swept.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # without pyplot, which keeps state and may need a display

    panels: list[Callable[[Axes], None]] = [partial(_draw_rates, analysis=analysis) for analysis in analyses]
    if len(sweep.objectives) == 2:
        panels.append(partial(_draw_front, sweep=sweep))
    panels.append(partial(_draw_learning, sweep=sweep, analysis=next(iter(analyses), None)))
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    figure = Figure(figsize=(6 * columns, 4.8 * rows), layout="constrained", facecolor="white")
    widths = [3, 2] if len(panels) == 2 else [1] * columns
    places = figure.subplots(rows, columns, squeeze=False, width_ratios=widths).flat
    for draw, axes in zip_longest(panels, places):
        if draw is None:
            axes.remove()
            continue
        draw(axes)
        plain_axes(axes)
    return save_figure(figure, path)


def _draw_rates(axes: Axes, analysis: Analysis) -> None:
    """Draw the metric against the LR: one line per curve, and pruned trials at their last metric."""
    pruned = analysis.pruned_points()
    means = [analysis.metric(point.cost) for curve in analysis.curves for point in curve.points]
    scale = scale_of([*means, *(value for _, value, _ in pruned)])
    for place, curve in enumerate(analysis.curves):
        _draw_curve(axes, analysis, curve, CURVES[place % len(CURVES)], scale)
    if pruned:
        rates, values = [lr for lr, _, _ in pruned], [value for _, value, _ in pruned]
        axes.plot(
            rates, values, "v", color=MUTED, fillstyle="none", markersize=5, linewidth=0, label="pruned", zorder=1
        )
    _set_scale(axes, "x", "log")
    _set_scale(axes, "y", scale)
    axes.set_xlabel(analysis.lr_key, color=INK)
    axes.set_ylabel(analysis.sweep.metric, color=INK)
    best = analysis.curves[0]
    if best.minimum:
        title = f"best LR {best.lr:.3g}, {best.interval_text}" + (f" ({best.name})" if best.name else "")
        axes.set_title(title, loc="left", fontsize=11, color=INK)
    if len(analysis.curves) > 1 or pruned:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def _draw_curve(axes: Axes, analysis: Analysis, curve: LRCurve, colour: str, scale: str) -> None:
    """Draw the trials as dots, their means as a line that is thick within the basin, and the best LR."""
    ended = [point for point in curve.points if math.isfinite(point.cost)]
    trials = [(point.lr, analysis.sweep.cost(trial)) for point in curve.points for trial in point.trials]
    dots = [(lr, analysis.metric(cost)) for lr, cost in trials if math.isfinite(cost)]
    axes.plot(*np.array(dots).T.reshape(2, -1), ".", color=colour, alpha=0.45, markersize=5)
    rates, means = [point.lr for point in ended], [analysis.metric(point.cost) for point in ended]
    result = f"{curve.lr:.3g}" if ended else curve.doubts[0]
    axes.plot(rates, means, color=colour, linewidth=1.5, label=f"{curve.name}: {result}" if curve.name else "done")
    errors = [point.error if point.error > 0 else 0.0 for point in ended]
    axes.errorbar(rates, means, errors, fmt="none", color=colour, capsize=2, linewidth=1.2)
    inside = curve.inside_basin()
    thick = interpolate_line(inside, list(zip(rates, means, strict=True)), scale)
    axes.plot(inside, thick, color=colour, linewidth=6, alpha=0.3)
    fitted = curve.fitted()
    axes.plot([lr for lr, _ in fitted], [analysis.metric(cost) for _, cost in fitted], ":", color=colour, linewidth=1.2)
    if curve.minimum:
        axes.axvline(curve.lr, color=colour, linewidth=1.2, linestyle="--")
        if curve is analysis.curves[0] and fitted:
            axes.axvspan(*curve.interval, color=colour, alpha=0.1, linewidth=0)
    for point in curve.points:
        if point.diverged:
            axes.plot(point.lr, 0.98, "x", color=colour, transform=axes.get_xaxis_transform(), clip_on=False)


def _draw_front(axes: Axes, sweep: SweepResults) -> None:
    """Draw two objectives against each other: the front as a line with the numbers of its trials, the others faint."""
    across, up = sweep.objectives
    colours = rate_colours([trial.rate(sweep.lr_key) for trial in sweep.ended])
    for trial, colour in zip(sweep.ended, colours, strict=True):
        x, y = trial.metrics[across.name], trial.metrics[up.name]
        on_front = trial in sweep.front
        axes.plot(x, y, "o", color=colour, markersize=8 if on_front else 5, alpha=1 if on_front else 0.4)
        if on_front and len(sweep.front) <= MAX_NUMBERED:
            axes.annotate(str(trial.number), (x, y), (5, 5), textcoords="offset points", fontsize=9, color=INK)
    front = sorted([trial.metrics[each.name] for each in sweep.objectives] for trial in sweep.front)
    # The step function that bounds the dominated region.
    steps: Literal["post", "pre"] = "post" if across.mode == "min" else "pre"
    axes.step([x for x, _ in front], [y for _, y in front], where=steps, color=MUTED, linewidth=1.2, zorder=1)
    for side, set_label, each in (("x", axes.set_xlabel, across), ("y", axes.set_ylabel, up)):
        _set_scale(axes, side, scale_of(trial.metrics[each.name] for trial in sweep.ended))
        set_label(str(each), color=INK)
    title = f"Pareto front: {len(sweep.front)} of {len(sweep.trials)} trials, by number"
    axes.set_title(title, loc="left", fontsize=11, color=INK)


def _draw_learning(axes: Axes, sweep: SweepResults, analysis: Analysis | None) -> None:
    """Draw the learning curves; higher LRs have warmer colours."""
    column, curves = learning_curves(sweep)
    colours = rate_colours([curve.trial.rate(sweep.lr_key) for curve in curves])
    for curve, colour in zip(curves, colours, strict=True):
        axes.plot(curve.steps, curve.values, color=colour, linewidth=1, alpha=0.8)
    values = [value for curve in curves for value in curve.values]
    scale = scale_of(values)
    _set_scale(axes, "y", scale)
    if analysis and values and max(values) > (top := analysis.upper_limit(column)):
        axes.set_ylim(0.8 * min(values) if scale == "log" else None, top)
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel(column, color=INK)
    title = "learning curves" + (" by LR: blue low, red high" if analysis else "")
    axes.set_title(title, loc="left", fontsize=11, color=INK)


def _set_scale(axes: Axes, side: str, scale: str) -> None:
    """Set the scale of an axis, `x` or `y`; a logarithmic axis of few decades has ticks at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if side == "x" else axes.yaxis
    low, high = axis.get_data_interval()
    if math.isclose(low, high) and scale == "log":  # matplotlib would warn of an axis without a length
        axes.set(**{f"{side}lim": (low / 2, high * 2)})
    axes.set(**{f"{side}scale": scale})
    if scale == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < WIDE * low else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def rate_colours(rates: Sequence[Value]) -> list[str]:
    """Return a colour for each LR by its logarithm; grey for a value that is not an LR."""
    known = [value for rate in rates if (value := number_or_none(rate)) is not None and value > 0]
    low, high = np.log10([min(known), max(known)]) if known else (0.0, 0.0)
    return [
        _between((np.log10(value) - low) / (high - low) if high > low else 0.5)
        if (value := number_or_none(rate)) is not None and value > 0
        else MUTED
        for rate in rates
    ]


def _between(share: float) -> str:
    """Return the colour at a share of the way from cold to hot."""
    stops = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in COLD_TO_HOT], float)
    where = np.linspace(0, 1, len(stops))
    return "#" + "".join(f"{round(float(np.interp(share, where, column))):02x}" for column in stops.T)

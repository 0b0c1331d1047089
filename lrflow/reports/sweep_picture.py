"""A sweep drawn: the metric against the learning rate, and the learning curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrflow.reports.colours import CURVES, FAINT, INK, along, by_rate, scale_of
from lrflow.sweeps.curves import Analysis, Curve
from lrflow.sweeps.learning import learning_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(analysis: Analysis, path: Path) -> Path:
    """Draw the curves of a sweep, their basins and best LRs, and beside them how each trial learned.

    Args:
        analysis: of the sweep.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # itself and not pyplot: no state, no display

    figure = Figure(figsize=(12, 4.8), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    scale = scale_of([analysis.metric(point.cost) for curve in analysis.curves for point in curve.points])
    for place, curve in enumerate(analysis.curves):
        _draw_curve(left, analysis, curve, CURVES[place % len(CURVES)], scale)
    left.set_xscale("log")
    left.set_yscale(scale)
    left.set_xlabel(analysis.lr_key, color=INK)
    left.set_ylabel(analysis.sweep.metric, color=INK)
    best = analysis.curves[0]
    if best.valley:
        title = f"best LR {best.lr:.3g}, {best.told}" + (f" ({best.name})" if best.name else "")
        left.set_title(title, loc="left", fontsize=11, color=INK)
    if len(analysis.curves) > 1:
        left.legend(frameon=False, fontsize=9, labelcolor=INK)
    _draw_learning(right, analysis)
    for panel in (left, right):
        panel.grid(axis="y", color=FAINT, linewidth=0.8)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.savefig(path, dpi=100)
    return path


def _draw_curve(axes: Axes, analysis: Analysis, curve: Curve, colour: str, scale: str) -> None:
    """The trials as dots, their means as a line that is thick within the basin, and the best LR on it."""
    ended = [point for point in curve.points if math.isfinite(point.cost)]
    trials = [(point.lr, analysis.sweep.cost(trial)) for point in curve.points for trial in point.trials]
    dots = [(lr, analysis.metric(cost)) for lr, cost in trials if math.isfinite(cost)]
    axes.plot(*np.array(dots).T.reshape(2, -1), ".", color=colour, alpha=0.45, markersize=5)
    rates, means = [point.lr for point in ended], [analysis.metric(point.cost) for point in ended]
    label = f"{curve.name}: {curve.lr:.3g}" if ended else f"{curve.name}: every LR diverged"
    axes.plot(rates, means, color=colour, linewidth=1.5, label=label)
    inside = curve.inside_basin()
    thick = along(inside, list(zip(rates, means, strict=True)), scale)
    axes.plot(inside, thick, color=colour, linewidth=6, alpha=0.3)
    fitted = curve.fitted()
    axes.plot([lr for lr, _ in fitted], [analysis.metric(cost) for _, cost in fitted], ":", color=colour, linewidth=1.2)
    if curve.valley:
        axes.axvline(curve.lr, color=colour, linewidth=1.2, linestyle="--")
        if curve is analysis.curves[0] and fitted:
            axes.axvspan(*curve.interval, color=colour, alpha=0.1, linewidth=0)
    for point in curve.points:
        if point.diverged:
            axes.plot(point.lr, 0.98, "x", color=colour, transform=axes.get_xaxis_transform(), clip_on=False)


def _draw_learning(axes: Axes, analysis: Analysis) -> None:
    """The trials over their steps, the higher the LR the warmer the colour."""
    column, curves = learning_curves(analysis.sweep)
    colours = by_rate([curve.trial.given.get(analysis.lr_key) for curve in curves])
    for curve, colour in zip(curves, colours, strict=True):
        axes.plot(curve.steps, curve.values, color=colour, linewidth=1, alpha=0.8)
    values = [value for curve in curves for value in curve.values]
    axes.set_yscale(scale_of(values))
    if values and max(values) > (top := analysis.top(column)):
        axes.set_ylim(top=top)
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel(column, color=INK)
    axes.set_title("how the trials learned, by LR: blue low, red high", loc="left", fontsize=11, color=INK)

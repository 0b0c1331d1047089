"""The picture of a study: learning curves with bands, or final results per variant."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.recipes.study import Study, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
INK, FAINT = "#222222", "#e6e6e6"


def draw(study: Study) -> Path:
    """Draw the picture of a study in the folder of its recipe and return its path."""
    from matplotlib.figure import Figure

    asked = study.picture
    shown = asked.get("variants", list(study.variants))
    kind = asked.get("kind") or ("tuning" if study.tune else "curves" if study.curve else "points")
    panels = asked.get("panels") or {asked.get("title", ""): shown}
    height = 4.0 if kind != "points" else 1.2 + 0.42 * len(shown)
    figure = Figure(figsize=(max(8.4, 3.1 * len(panels)), height), layout="constrained", facecolor="white")
    row = figure.subplots(1, len(panels), sharex=True, sharey=kind != "points", squeeze=False)[0]
    for axes, (title, variants) in zip(row, panels.items(), strict=True):
        {"curves": _curves, "points": _points, "tuning": _tuning}[kind](axes, study, variants)
        _dress(axes, study, kind, title)
    for axes in row[1:]:
        axes.set_ylabel("")
    if "panels" in asked:
        figure.suptitle(asked.get("title", ""), fontsize=10.5, color=INK, x=0.01, ha="left")
    path = study.recipe / asked.get("file", "result.png")
    figure.savefig(path, dpi=110)
    return path


def _dress(axes: Axes, study: Study, kind: str, title: str) -> None:
    """Add what all panels have: reference lines, legend, title and a light grid."""
    asked = study.picture
    for name, value in asked.get("lines", {}).items():
        line = axes.axvline if kind == "points" else axes.axhline
        line(value, color="#707070", linestyle="--", linewidth=1.0, label=name)
    if kind != "points" or asked.get("lines"):
        axes.legend(frameon=False, fontsize=8.5)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    axes.grid(axis="x" if kind == "points" else "y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    if limits := asked.get("limits"):
        (axes.set_xlim if kind == "points" else axes.set_ylim)(*limits)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _curves(axes: Axes, study: Study, shown: list[str]) -> None:
    """Plot the mean curve over seeds with a band of one standard deviation."""
    asked = study.picture
    scale = float(asked.get("per_step", 1.0))
    for variant, colour in zip(shown, COLOURS, strict=False):
        curves = [run["curve"] for run in study.reported(variant) if run.get("curve", {}).get("steps")]
        if not curves:
            continue
        steps = _common(curves)
        values = np.array([np.interp(steps, curve["steps"], curve["values"]) for curve in curves])
        mean, band = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(len(steps))
        axes.plot(steps * scale, mean, color=colour, linewidth=1.7, label=variant)
        axes.fill_between(steps * scale, mean - band, mean + band, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel(asked.get("xlabel", "optimizer step"), fontsize=9, color=INK)
    axes.set_ylabel(asked.get("ylabel", study.curve or ""), fontsize=9, color=INK)


def _common(curves: list[dict[str, Any]]) -> np.ndarray:
    """Return the steps that all curves reach."""
    last = min(curve["steps"][-1] for curve in curves)
    steps = sorted({step for curve in curves for step in curve["steps"] if step <= last})
    return np.array(steps, dtype=float)


def _points(axes: Axes, study: Study, shown: list[str]) -> None:
    """Plot the first metric of every run, with mean and standard deviation per variant."""
    metric = next(iter(study.metrics.values()))
    for row, variant in enumerate(reversed(shown)):
        values = [value for value in study.values(variant, metric) if math.isfinite(value)]
        if not values:
            continue
        colour = COLOURS[0]
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.35, markersize=5, markeredgewidth=0)
        mean, error = statistics.fmean(values), spread(values)
        axes.errorbar(
            mean, row, xerr=None if math.isnan(error) else error, fmt="|", color=INK, markersize=14, capsize=3
        )
    axes.set_yticks(range(len(shown)), list(reversed(shown)), color=INK)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel(study.picture.get("xlabel", next(iter(study.metrics))), fontsize=9, color=INK)


def _tuning(axes: Axes, study: Study, shown: list[str]) -> None:
    """Plot the validation metric of each value that was tried, with a ring around the chosen one."""
    assert study.tune is not None
    for variant, colour in zip([v for v in shown if v in study.tuned_variants], COLOURS, strict=False):
        found = {value: statistics.fmean(values) for value, values in study.tuned(variant).items() if values}
        if not found:
            continue
        axes.plot(
            [float(value) for value in found], list(found.values()), "o-", color=colour, markersize=4, label=variant
        )
        if (best := study.chosen(variant)) is not None:
            axes.plot(float(best), found[best], "o", color=colour, markersize=10, fillstyle="none")
    axes.set_xscale("log")
    axes.set_xlabel(study.picture.get("xlabel", study.tune["key"]), fontsize=9, color=INK)
    axes.set_ylabel(study.picture.get("ylabel", study.tune["metric"]), fontsize=9, color=INK)

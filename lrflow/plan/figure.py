"""The plan drawn: the LR of every group over the run, and below it what else moves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from lrflow.display import COLOURS, GREY, INK, joined, number, plain_axes, save_figure
from lrflow.plan.base import PlanBase
from lrflow.plan.table import Line, describe, length, lines, sampled, setting_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import StepPatch

POINTS = 2000  # of a line: more than the picture has pixels
NAMED = 12  # lines the legend names; of more, it names some
DECADES = 3  # on a log axis, how far under the lowest peak is shown


def plot(plan: PlanBase, path: Path) -> Path:
    """Draw the LR of every group over the run into `path` (its folder is made if missing) and return it."""
    return save_figure(draw(plan), path)


def draw(plan: PlanBase) -> Figure:
    """The LR of every group over the run; groups with one curve share a line, peaks more than 10x apart a log axis."""
    from matplotlib.figure import Figure  # itself and not pyplot: no state, no display

    figure = Figure(figsize=(9, 4.8 + 1.6 * len(plan.also)), layout="constrained", facecolor="white")
    axes, *below = figure.subplots(
        1 + len(plan.also), sharex=True, squeeze=False, height_ratios=[3] + [1] * len(plan.also)
    )[:, 0]
    shown = sorted(lines(plan), key=lambda line: -plan.trainable[line.column].lr)
    steps = sampled(plan, POINTS)
    rates, edges = plan.lr(steps), [*steps, plan.horizon.steps]
    # As stairs: an LR holds for the whole of its step.
    drawn = [
        axes.stairs(rates[:, line.column], edges, baseline=None, color=colour, linewidth=1.8)
        for line, colour in zip(shown, _colours(len(shown)), strict=True)
    ]
    _frame(axes, plan, [plan.trainable[line.column].lr for line in shown])
    _phases(axes, plan)
    _legend(axes, shown, drawn)
    for panel, name in zip(below, plan.also, strict=True):
        _draw_setting(panel, plan, name)
    if below:
        axes.set_xlabel("")
        below[-1].set_xlabel("optimizer step", color=INK)
    return figure


def _draw_setting(axes: Axes, plan: PlanBase, name: str) -> None:
    """What moves besides the LR, a line for each way in which it does so."""
    shown = [(label, column) for other, label, column in setting_lines(plan) if other == name]
    steps = sampled(plan, POINTS)
    values, edges = plan.setting(name, steps), [*steps, plan.horizon.steps]
    colours = _colours(len(shown)) if len(shown) > 1 else [GREY]  # not the colour of one of the LRs
    for (label, column), colour in zip(shown, colours, strict=True):
        whose = label.partition(" of ")[2]
        axes.stairs(values[:, column], edges, baseline=None, color=colour, linewidth=1.8, label=whose)
    title = next(moved.title for moved, _ in plan.moved if moved.name == name)
    axes.set_ylabel(title.replace(" (", "\n("), color=INK)
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    if len(shown) > 1:
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=9, labelcolor=INK
        )
    plain_axes(axes)


def _colours(count: int) -> list[Any]:
    """So many colours: the palette, or of more than it has a scale."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps

    return [colormaps["viridis"](share) for share in np.linspace(0.9, 0.0, count)]


def _frame(axes: Axes, plan: PlanBase, peaks: list[float]) -> None:
    """Axes, scales, title."""
    from matplotlib.ticker import MaxNLocator

    if peaks and min(peaks) > 0 and max(peaks) > 10 * min(peaks):
        axes.set_yscale("log")
        rates = plan.lr(sampled(plan, POINTS))
        low = rates[rates > 0].min()
        axes.set_ylim(max(low, min(peaks) * 10.0**-DECADES) / 1.3, max(peaks) * 1.5)
        axes.set_ylabel("learning rate (log scale)", color=INK)
    else:
        axes.set_ylim(0, max(peaks, default=1.0) * 1.08)
        axes.yaxis.set_major_formatter(lambda rate, _: number(rate))
        axes.set_ylabel("learning rate", color=INK)
    axes.set_xlim(0, plan.horizon.steps)
    axes.set_xlabel("optimizer step", color=INK)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if per_epoch := plan.horizon.steps_per_epoch:
        to_epoch, to_step = partial(np.multiply, 1 / per_epoch), partial(np.multiply, per_epoch)
        epochs = axes.secondary_xaxis("top", functions=(to_epoch, to_step))
        epochs.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
        epochs.xaxis.set_major_formatter(lambda epoch, _: f"{epoch:g}")
        epochs.set_xlabel("epoch", color=GREY)
        epochs.tick_params(colors=GREY, length=3)
        epochs.spines["top"].set_visible(False)
    plain_axes(axes)
    schedules = "; ".join(dict.fromkeys(describe(curve.unfrozen()) for curve, _ in plan.curves)) or "nothing is trained"
    title = f"{shorten(schedules, 100, placeholder=' ...')}\n{length(plan)}"
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10, linespacing=1.4)


def _phases(axes: Axes, plan: PlanBase) -> None:
    """Warmup and cooldown shaded, where every group has the same."""
    phases = {(phase.start, phase.stop) for phase in (curve.unfrozen().phase(plan.horizon) for curve, _ in plan.curves)}
    if len(phases) != 1:
        return
    ((start, stop),) = phases
    steps = plan.horizon.steps
    for low, high, name in ((0, start, "warmup"), (stop, steps, "cooldown")):
        axes.axvspan(low, high, color="black", alpha=0.04, linewidth=0)
        if high - low > 0.09 * steps:  # else the word is wider than its stretch
            middle, top = (low + high) / 2, axes.get_ylim()[1]
            axes.annotate(name, (middle, top), (0, -4), textcoords="offset points", ha="center", va="top", color=GREY)


def _legend(axes: Axes, shown: list[Line], drawn: list[StepPatch]) -> None:
    """Names beside the lines' colours, the highest LR first; of very many lines, some."""
    if not shown:
        return
    kept = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), NAMED)).round().astype(int))
    labels = [joined(shown[index].names, 3) for index in kept]
    title = f"{len(kept)} of {len(shown)} lines" if len(kept) < len(shown) else None
    axes.legend(
        [drawn[index] for index in kept],
        labels,
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
        labelcolor=INK,
    )

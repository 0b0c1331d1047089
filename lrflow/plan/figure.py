"""The figure of a plan: the LR of every group over the run, and settings and scalars below it; also for notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from lrflow.display import CURVES, GREY, INK, plain_axes, save_figure
from lrflow.plan.table import Line, PlanTable, describe, describe_length, lines, sample_steps, setting_lines
from lrflow.plan.values import PlanBase
from lrflow.schedules import Horizon
from lrflow.wording import joined, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import StepPatch

    from lrflow.plan.actual import Actual

POINTS = 2000  # per line: more than the figure has pixels
LEGEND_LINES = 12  # most lines that the legend names
LEGEND_X = 1.01  # left edge of the legend, in widths of the axes
TABLE_WIDTH = 120  # characters of the table in a notebook
DECADES = 3  # shown below the lowest peak on a log axis


def plot(plan: PlanBase, path: Path, actual: Actual | None = None) -> Path:
    """Draw the LR of every group over the run into `path` (its folder is made if missing) and return it."""
    return save_figure(draw(plan, actual), path)


def as_html(plan: PlanBase) -> str:
    """Return the table and the figure of a plan as HTML, which needs no other file."""
    console = Console(record=True, file=io.StringIO(), width=TABLE_WIDTH)
    console.print(PlanTable(plan))
    style = "font-family: monospace; line-height: 1.3; white-space: pre"
    table = console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
    draw(plan).savefig(picture := io.BytesIO(), format="png", dpi=90)
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<div>{table}<img alt="learning rate over the run" src="data:image/png;base64,{data}"></div>'


def draw(plan: PlanBase, actual: Actual | None = None) -> Figure:
    """Draw the LR of every group; groups with one curve share a line, peaks more than 10x apart use a log axis.

    Args:
        plan: the plan.
        actual: the LR that the run used: a line beside each planned one, which is dashed then; None: not drawn.
    """
    from matplotlib.figure import Figure  # instead of pyplot, which has state and needs a display

    panels = len(plan.also) + len(plan.scalars) + (plan.horizon.batch is not None)
    figure = Figure(figsize=(9, 4.8 + 1.6 * panels), facecolor="white")
    axes, *below = figure.subplots(1 + panels, sharex=True, squeeze=False, height_ratios=[3] + [1] * panels)[:, 0]
    curves = sorted(lines(plan), key=lambda line: -plan.trainable[line.column].lr)
    steps = sample_steps(plan, POINTS)
    rates, edges = plan.lr(steps), [*steps, plan.horizon.steps]
    drawn: list[Any] = [
        _add_stairs(axes, rates[:, line.column], edges, colour)
        for line, colour in zip(curves, _colours(len(curves)), strict=True)
    ]
    peaks = [plan.trainable[line.column].lr for line in curves]
    if actual is not None and len(actual.steps):
        used = actual.rates[:, [line.column for line in curves]]
        peaks += used.max(axis=0).tolist()
    _frame(axes, plan, [peak for peak in peaks if peak > 0])
    _phases(axes, plan)
    extra: list[Any] = []
    if actual is not None:
        drawn, extra = _add_actual(axes, actual, curves, drawn)
    _legend(axes, curves, drawn, extra)
    for panel, name in zip(below[: len(plan.also)], plan.also, strict=True):
        _draw_setting(panel, plan, name)
    for panel, scalar in zip(below[len(plan.also) :], plan.scalars, strict=False):
        _draw_panel(panel, scalar.title, scalar(steps, plan.horizon), steps, plan.horizon)
    if plan.horizon.batch is not None:
        _draw_panel(below[-1], "batch", plan.horizon.batch.sizes_at(steps), steps, plan.horizon)
    if below:
        axes.set_xlabel("")
        below[-1].set_xlabel("optimizer step", color=INK)
    arrange(figure, [axes, *below])
    return figure


def _add_stairs(axes: Axes, values: Any, edges: Any, colour: Any, label: str | None = None) -> StepPatch:
    """Draw values as stairs, since a value holds for a whole step.

    `Axes.stairs` does the same, but loops over every point to find the limits of the axes, which are known here.
    """
    from matplotlib.patches import StepPatch

    no_baseline: Any = None  # matplotlib accepts None, its type stubs do not
    stairs = StepPatch(values, edges, baseline=no_baseline, fill=False, edgecolor=colour, linewidth=1.8, label=label)
    axes.add_artist(stairs)
    return stairs


def _add_actual(axes: Axes, actual: Actual, curves: list[Line], drawn: list[Any]) -> tuple[list[Any], list[Any]]:
    """Draw the LR that a run used, and what changed it; return its lines, and further ones for the legend."""
    from matplotlib.lines import Line2D

    kept = np.unique(np.linspace(0, len(actual.steps) - 1, min(len(actual.steps), 2 * POINTS)).astype(int))
    used = []
    for line, planned in zip(curves, drawn, strict=True):
        planned.set(linestyle=(0, (2, 2)), linewidth=1.1)
        rates, colour = actual.rates[kept, line.column], planned.get_edgecolor()
        used += axes.plot(actual.steps[kept], rates, color=colour, linewidth=1.6, drawstyle="steps-post")
    above = axes.get_yscale() == "linear"  # where a curve seldom is
    for event in actual.events:
        at, again = event.get("to", event["step"]), event["step"]
        early = at < 0.03 * axes.get_xlim()[1]  # without room for a label to the left
        axes.axvline(at, color=GREY, linestyle=":", linewidth=1)
        if again > at:
            axes.axvspan(at, again, color=GREY, alpha=0.12, linewidth=0)
        axes.annotate(
            f"{event['action']} x {number(event['factor'])}", (at, float(above)),
            (2 if early else -2, -20 if above else 4),
            xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90, color=GREY, fontsize=8,
            ha="left" if early else "right", va="top" if above else "bottom",
        )  # fmt: skip
    return used, [Line2D([], [], color=GREY, linewidth=1.1, linestyle=(0, (2, 2)), label="as planned")]


def arrange(figure: Figure, panels: list[Axes]) -> None:
    """Place the panels in the room that their labels and legends leave.

    This measures only what differs between plans. Matplotlib's layouts measure every text several times, which takes
    longer than the drawing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.size
    inch = figure.dpi
    boxes = [(panel, box) for panel in panels if (box := panel.yaxis.get_tightbbox(renderer))]
    labels = [panel.bbox.x0 - box.x0 for panel, box in boxes]
    legends = [legend.get_window_extent(renderer).width for panel in panels if (legend := panel.get_legend())]
    left = max(labels, default=0.0) + 0.04 * inch
    room = max(width - left - max([0.3 * inch, *legends]) - 0.04 * inch, width / 3)  # very long names are cut off
    head = 0.94 if panels[0].child_axes else 0.56  # inches for the title, and of an axis with epochs
    figure.subplots_adjust(
        left=left / width,
        right=(left + room / LEGEND_X) / width,
        bottom=0.46 * inch / height,
        top=1 - head * inch / height,
        hspace=0.1,
    )
    panels[-1].xaxis.set_label_coords(0.5, -0.28 * inch / panels[-1].bbox.height)
    for epochs in panels[0].child_axes:
        above = 1 + 0.27 * inch / panels[0].bbox.height
        epochs.xaxis.set_label_coords(0.5, above, transform=panels[0].transAxes)


def _draw_setting(axes: Axes, plan: PlanBase, name: str) -> None:
    """Draw a scheduled setting, with one line per variant."""
    variants = [(label, column) for other, label, column in setting_lines(plan) if other == name]
    steps = sample_steps(plan, POINTS)
    values, edges = plan.setting(name, steps), [*steps, plan.horizon.steps]
    colours = _colours(len(variants)) if len(variants) > 1 else [GREY]  # a colour that no LR has
    for (label, column), colour in zip(variants, colours, strict=True):
        group_names = label.partition(" of ")[2]
        _add_stairs(axes, values[:, column], edges, colour, label=group_names)
    title = next(setting.title for setting, _ in plan.scheduled_settings if setting.name == name)
    _frame_panel(axes, title.replace(" (", "\n("), values, plan.horizon)
    if len(variants) > 1:
        axes.legend(
            loc="upper left", bbox_to_anchor=(LEGEND_X, 1.0), borderaxespad=0, frameon=False, fontsize=9, labelcolor=INK
        )


def _draw_panel(axes: Axes, title: str, values: np.ndarray, steps: np.ndarray, horizon: Horizon) -> None:
    _add_stairs(axes, values, [*steps, horizon.steps], GREY)
    _frame_panel(axes, title, values, horizon)


def _frame_panel(axes: Axes, title: str, values: np.ndarray, horizon: Horizon) -> None:
    axes.set_ylabel(title, color=INK)
    axes.margins(y=0.12)
    axes.update_datalim([(0, values.min()), (horizon.steps, values.max())])
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    plain_axes(axes)


def _colours(count: int) -> list[Any]:
    """Return `count` colours: the palette, or a colour scale if the palette has fewer."""
    if count <= len(CURVES):
        return list(CURVES[:count])
    from matplotlib import colormaps

    return [colormaps["viridis"](share) for share in np.linspace(0.9, 0.0, count)]


def _frame(axes: Axes, plan: PlanBase, peaks: list[float]) -> None:
    """Set the scales, labels and title."""
    from matplotlib.ticker import MaxNLocator

    if peaks and min(peaks) > 0 and max(peaks) > 10 * min(peaks):
        axes.set_yscale("log")
        rates = plan.lr(sample_steps(plan, POINTS))
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
    if functions := _epochs(plan.horizon):
        to_epoch, to_step = functions
        epochs = axes.secondary_xaxis("top", functions=(to_epoch, to_step))
        epochs.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
        epochs.xaxis.set_major_formatter(lambda epoch, _: f"{epoch:g}")
        epochs.set_xlabel("epoch", color=GREY)
        epochs.tick_params(colors=GREY, length=3)
        epochs.spines["top"].set_visible(False)
    plain_axes(axes)
    curves = [curve.without_freezing() for curve, _ in plan.curves]
    schedules = "; ".join(dict.fromkeys(describe(curve, plan.horizon) for curve in curves)) or "nothing is trained"
    title = f"{shorten(schedules, 100, placeholder=' ...')}\n{describe_length(plan)}"
    pad = 38 if axes.child_axes else 10  # with y, the title stays where it is put
    axes.set_title(title, loc="left", y=1, pad=pad, fontsize=11, color=INK, linespacing=1.4)


def _epochs(horizon: Horizon) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """Return the functions from steps to epochs and back; None: the length of an epoch is unknown."""
    if horizon.batch is None:
        each = horizon.steps_per_epoch
        return (partial(np.multiply, 1 / each), partial(np.multiply, each)) if each else None
    if not horizon.has_epochs:
        return None
    marks = np.unique(np.linspace(0, horizon.steps, POINTS).round().astype(int))
    epochs = [horizon.epochs_at(step) for step in marks.tolist()]
    last = 1e9 * max(horizon.steps, 1)  # beyond the run, as matplotlib looks there too
    steps, counts = np.array([-last, *marks, last]), np.array([-last, *epochs, last])
    return (lambda step: np.interp(step, steps, counts)), (lambda epoch: np.interp(epoch, counts, steps))


def _phases(axes: Axes, plan: PlanBase) -> None:
    """Shade warmup and cooldown if they are the same for every group."""
    phases = [curve.without_freezing().phase(plan.horizon) for curve, _ in plan.curves]
    stretches = {(phase.start, phase.stop) for phase in phases}
    if len(stretches) != 1:
        return
    ((start, stop),) = stretches
    steps = plan.horizon.steps
    for low, high, name in ((0, start, "warmup"), (stop, steps, "cooldown")):
        axes.axvspan(low, high, color="black", alpha=0.04, linewidth=0)
        if high - low > 0.09 * steps:  # else the label is wider than the shaded area
            middle, top = (low + high) / 2, axes.get_ylim()[1]
            axes.annotate(name, (middle, top), (0, -4), textcoords="offset points", ha="center", va="top", color=GREY)


def _legend(axes: Axes, curves: list[Line], drawn: list[Any], extra: list[Any]) -> None:
    """Draw the legend, the highest LR first; of many lines it names some. `extra` are lines with labels, at its end."""
    if not curves:
        return
    kept = np.unique(np.linspace(0, len(curves) - 1, min(len(curves), LEGEND_LINES)).round().astype(int))
    labels = [joined(curves[index].names, 3) for index in kept]
    title = f"{len(kept)} of {len(curves)} lines" if len(kept) < len(curves) else None
    axes.legend(
        [*(drawn[index] for index in kept), *extra],
        [*labels, *(line.get_label() for line in extra)],
        title=title,
        loc="upper left",
        bbox_to_anchor=(LEGEND_X, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
        labelcolor=INK,
    )

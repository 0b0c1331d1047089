"""Draws the pictures of the documentation that show schedules, as lrflow computes them from conf/schedule/.

python docs/draw_schedules.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrflow.config.catalogue import home
from lrflow.schedules import Constant, Continued, Cosine, Curve, Horizon, Linear, Schedule

IMAGES = Path(__file__).parent / "images"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, GREY, FAINT = "#222222", "#707070", "#e6e6e6"

RUN = Horizon(1000, steps_per_epoch=50)
"""The run of every picture but the last: 20 epochs."""


def draw_options(path: Path) -> None:
    """Every option of the group `schedule`, as it is by default."""
    files = sorted((home("conf") / "schedule").glob("*.yaml"))
    rows = -(-len(files) // 4)
    figure = Figure(figsize=(9.6, 1.75 * rows), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, 4, sharex=True, sharey=True)
    for axes, file in zip(panels.flat, files, strict=False):
        schedule = Curve.from_spec(yaml.safe_load(file.read_text()))
        steps = np.arange(RUN.steps)
        axes.plot(steps / RUN.steps, schedule(steps, RUN), color=COLOURS[0], linewidth=1.6)
        axes.set_title(file.stem, fontsize=9.5, color=INK, loc="left")
        _frame(axes)
    for axes in panels.flat[len(files) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("LR / peak", color=INK, fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("share of the run", color=INK, fontsize=9)
    figure.savefig(path, dpi=100)


def draw_parts(path: Path) -> None:
    """The curves of warmups and of cooldowns, and what a floor does to a shape that lands and to one that does not."""
    figure = Figure(figsize=(9.6, 2.9), layout="constrained", facecolor="white")
    warmups, cooldowns, floors = figure.subplots(1, 3, sharey=True)
    rises = ("linear", "cosine", "exponential", "constant")
    _lines(warmups, {name: Schedule(Constant(), "60%", 0.1, warmup_shape=name) for name in rises})
    warmups.set_title("warmup_shape (60%, warmup_start 0.1)", fontsize=9.5, color=INK, loc="left")
    names = ("linear", "cosine", "1-sqrt", "1-square", "power", "exponential")
    _lines(cooldowns, {name: Schedule(Constant(), cooldown="60%", floor=0.02, cooldown_shape=name) for name in names})
    cooldowns.set_title("cooldown_shape (60%, floor 0.02)", fontsize=9.5, color=INK, loc="left")
    _lines(floors, {f"floor {floor}": Schedule(Linear(), floor=floor) for floor in (0.0, 0.2, 0.5)})
    floors.set_title("floor (linear)", fontsize=9.5, color=INK, loc="left")
    for axes, place in ((warmups, "lower right"), (cooldowns, "lower left"), (floors, "lower left")):
        axes.legend(loc=place, frameon=False, fontsize=8.5, labelcolor=INK)
        axes.set_xlabel("share of the run", color=INK, fontsize=9)
        _frame(axes)
    warmups.set_ylabel("LR / peak", color=INK, fontsize=9)
    figure.savefig(path, dpi=100)


def _lines(axes: Axes, schedules: dict[str, Curve]) -> None:
    steps = np.arange(RUN.steps)
    for (name, schedule), colour in zip(schedules.items(), COLOURS, strict=False):
        axes.plot(steps / RUN.steps, schedule(steps, RUN), color=colour, linewidth=1.6, label=name)


def draw_resumed(path: Path) -> None:
    """A run of 400 steps that is resumed at step 200 with 600: what each choice makes of its schedule."""
    before, now, at = Horizon(400, 20), Horizon(600, 20), 200
    schedule = Schedule(Cosine(), warmup="5%", floor=0.1)
    figure = Figure(figsize=(9.6, 3.9), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    behind, ahead = np.arange(at + 1), np.arange(at, now.steps)
    for how, colour in zip(
        ("keep", "rescale", "extend", "decay_now"), ("#009E73", "#0072B2", "#D55E00", "#CC79A7"), strict=True
    ):
        curve = Continued(schedule, at, before, how)  # type: ignore[arg-type]  # a literal each
        axes.plot(ahead, curve(ahead, now), color=colour, linewidth=1.8, label=f"resume.horizon={how}")
    axes.plot(behind, schedule(behind, before), color=INK, linewidth=1.8, label="before it was resumed")
    for step, name, style in ((at, "resumed", "-"), (before.steps, "the old end", ":")):
        axes.axvline(step, color=GREY, linewidth=0.8, linestyle=style)
        axes.annotate(name, (step, 0.03), (4, 0), textcoords="offset points", color=GREY, fontsize=9)
    axes.set_xlim(0, now.steps)
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel("LR / peak", color=INK)
    title = "cosine, warmup 5%, floor 0.1: 400 steps, resumed at 200 with 600"
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    _frame(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, labelcolor=INK)
    figure.savefig(path, dpi=100)


def _frame(axes: Axes) -> None:
    axes.set_ylim(0, 1.06)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b0b0b0")
    axes.tick_params(colors=INK, length=3, labelsize=8.5)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    draw_options(IMAGES / "schedules.png")
    draw_parts(IMAGES / "parts.png")
    draw_resumed(IMAGES / "resume.png")

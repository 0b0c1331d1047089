"""Draws the pictures of the documentation that show schedules, as lrflow computes them.

python docs/draw_schedules.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrflow.schedules import (
    Constant,
    Continued,
    Cosine,
    Curve,
    Exponential,
    Horizon,
    Linear,
    MultiStep,
    Polynomial,
    Schedule,
    Shape,
    Step,
)

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GREEN, PINK, INK, GREY, FAINT = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222", "#707070", "#e6e6e6",
)  # fmt: skip

RUN = Horizon(1000, steps_per_epoch=50)
"""The run of the first picture: 20 epochs."""

SHAPES: dict[str, Shape] = {
    "constant": Constant(),
    "linear": Linear(),
    "cosine": Cosine(),
    "polynomial, power 2": Polynomial(2.0),
    "polynomial, power 0.5": Polynomial(0.5),
    "exponential, 0.9 an epoch": Exponential(0.9, "1 epoch"),
    "exponential, 0.7 every 3 epochs, staircase": Exponential(0.7, "3 epochs", staircase=True),
    "step, 0.5 every 20%": Step(0.5, "20%"),
    "multistep, 0.3 at 50% and 75%": MultiStep(0.3, ["50%", "75%"]),
}


def draw_shapes(path: Path) -> None:
    """Every shape alone, and between a warmup and a floor; the constant one with a cooldown."""
    figure = Figure(figsize=(9.6, 6.4), layout="constrained", facecolor="white")
    panels = figure.subplots(3, 3, sharex=True, sharey=True)
    for axes, (name, shape) in zip(panels.flat, SHAPES.items(), strict=True):
        cooldown = "20%" if isinstance(shape, Constant) else 0
        _line(axes, Schedule(shape, warmup="10%", cooldown=cooldown, floor=0.1), ORANGE, 1.6)
        _line(axes, Schedule(shape), BLUE, 1.6)
        axes.set_title(name, fontsize=9.5, color=INK, loc="left")
        _frame(axes)
    for axes in panels[-1]:
        axes.set_xlabel("share of the run", color=INK, fontsize=9)
    for axes in panels[:, 0]:
        axes.set_ylabel("LR / peak", color=INK, fontsize=9)
    lines = panels[0, 0].get_lines()
    names = ["with warmup 10%, floor 0.1 (and, for constant, cooldown 20%)", "the shape alone"]
    figure.legend(lines, names, loc="outside upper left", ncols=2, frameon=False, fontsize=9.5, labelcolor=INK)
    figure.savefig(path, dpi=100)


def _line(axes: Axes, schedule: Curve, colour: str, width: float) -> None:
    steps = np.arange(RUN.steps)
    axes.plot(steps / RUN.steps, schedule(steps, RUN), color=colour, linewidth=width)


def draw_resumed(path: Path) -> None:
    """A run of 400 steps that is resumed at step 200 with 600: what each choice makes of its schedule."""
    before, now, at = Horizon(400, 20), Horizon(600, 20), 200
    schedule = Schedule(Cosine(), warmup="5%", floor=0.1)
    figure = Figure(figsize=(9.6, 3.9), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    behind, ahead = np.arange(at + 1), np.arange(at, now.steps)
    for how, colour in (("keep", GREEN), ("rescale", BLUE), ("extend", ORANGE), ("decay_now", PINK)):
        curve = Continued(schedule, at, before, how)  # type: ignore[arg-type]  # a literal each
        axes.plot(ahead, curve(ahead, now), color=colour, linewidth=1.8, label=f"resume.horizon={how}")
    axes.plot(behind, schedule(behind, before), color=INK, linewidth=1.8, label="before it was resumed")
    axes.axvline(at, color=GREY, linewidth=0.8)
    axes.annotate("resumed", (at, 0.03), (4, 0), textcoords="offset points", color=GREY, fontsize=9)
    axes.axvline(before.steps, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate("the old end", (before.steps, 0.03), (4, 0), textcoords="offset points", color=GREY, fontsize=9)
    axes.set_xlim(0, now.steps)
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel("LR / peak", color=INK)
    axes.set_title("cosine, warmup 5%, floor 0.1: 400 steps, resumed at 200 with 600", loc="left", fontsize=10.5)
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
    draw_shapes(IMAGES / "schedules.png")
    draw_resumed(IMAGES / "resume.png")

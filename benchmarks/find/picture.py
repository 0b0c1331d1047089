"""Plot the answers of each contestant and the loss of the grid, one panel per problem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.find.problems import CONFIRMED, Problem
from benchmarks.find.scores import basin, scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATH = Path(__file__).parent.parent.parent / "docs" / "images" / "find_benchmark.png"
INK, FAINT, OURS, THEIRS, BASIN = "#222222", "#e6e6e6", "#0072B2", "#D55E00", "#009E73"
SHORT = {CONFIRMED: "find.confirm=true"}
HIGHEST = 4.0  # upper limit of the plot, as a multiple of the lowest loss


def draw(problems: Sequence[Problem]) -> Path:
    """Plot the problems side by side and return the path of the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(problems) + 1.6, 6.0), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, len(problems), sharex="col", squeeze=False, height_ratios=[1, 1.5])
    names = list(dict.fromkeys(name for problem in problems for name in scores(problem)))
    for column, problem in enumerate(problems):
        _loss(above[column], problem)
        _dots(below[column], problem, names, labelled=column == 0)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PATH, dpi=100)
    return PATH


def _loss(axes: Axes, problem: Problem) -> None:
    """Plot the loss of the grid relative to its minimum, and the range of good LRs."""
    known = np.isfinite(problem.losses)
    axes.plot(problem.rates[known], problem.losses[known] / problem.losses.min(), "o-", color=INK, markersize=3)
    axes.set_ylim(0.95, HIGHEST)
    axes.set_yscale("log")
    axes.set_yticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
    axes.set_yticks([], minor=True)
    axes.set_title(problem.title, fontsize=9.5, color=INK, loc="left")
    axes.set_ylabel("loss over the least", fontsize=9, color=INK)
    _dress(axes, problem)


def _dots(axes: Axes, problem: Problem, names: Sequence[str], labelled: bool) -> None:
    """Plot one row per contestant and one dot per answer."""
    found = scores(problem)
    for height, name in enumerate(reversed(names)):
        if name in found:
            answers = found[name].answers
            colour = THEIRS if name.split()[0] in ("Lightning", "torch-lr-finder", "fastai") else OURS
            axes.plot(answers, np.full(len(answers), height), "o", color=colour, markersize=4.5, alpha=0.5)
    axes.set_yticks(
        range(len(names)),
        [SHORT.get(name, name) for name in reversed(names)] if labelled else [""] * len(names),
        fontsize=8.5,
    )
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xscale("log")
    axes.set_xlabel("LR found", fontsize=9, color=INK)
    _dress(axes, problem)


def _dress(axes: Axes, problem: Problem) -> None:
    axes.axvspan(*basin(problem), color=BASIN, alpha=0.18, linewidth=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

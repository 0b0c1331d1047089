"""Plot regret against compute, one panel per landscape: median and quartiles of each method over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.sweeps.landscape import LANDSCAPES
from benchmarks.sweeps.methods import BUDGET, Regrets, after, whole_steps

PATH = Path(__file__).parents[2] / "docs" / "images" / "sweeps_benchmark.png"
INK, FAINT = "#222222", "#e6e6e6"
COLOURS = ("#999999", "#000000", "#0072B2", "#E69F00", "#D55E00", "#009E73")
LEAST = 1e-4  # a regret of 0 is drawn at this value


def draw(measured: Mapping[str, Regrets]) -> Path:
    """Plot the landscapes side by side and return the path of the picture.

    Args:
        measured: regrets by name of the landscape.
    """
    landscapes = [landscape for landscape in LANDSCAPES if landscape.name in measured]
    figure = Figure(figsize=(6.4 * len(landscapes), 4.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(landscapes), squeeze=False)[0]
    for axes, landscape in zip(panels, landscapes, strict=True):
        spent = np.linspace(0.25, BUDGET, 400)
        for (name, curves), colour in zip(measured[landscape.name].items(), COLOURS, strict=True):
            values = np.array([[after(curve, x * whole_steps(landscape)) for x in spent] for curve in curves])
            known = np.isfinite(values).all(0)  # where every seed has an answer
            middle = np.maximum(np.median(values[:, known], 0), LEAST)
            low, high = np.maximum(np.quantile(values[:, known], (0.25, 0.75), axis=0), LEAST)
            axes.step(spent[known], middle, where="post", color=colour, linewidth=1.8, label=name)
            axes.fill_between(spent[known], low, high, step="post", color=colour, alpha=0.12, linewidth=0)
        axes.set_yscale("log")
        axes.set_xlim(0, BUDGET)
        axes.set_title(landscape.title, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("compute, in whole runs", fontsize=9, color=INK)
        axes.set_ylabel("validation loss above the best known", fontsize=9, color=INK)
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].legend(fontsize=8.5, frameon=False)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PATH, dpi=100)
    return PATH

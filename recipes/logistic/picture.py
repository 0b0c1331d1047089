"""Plot a sweep over the LR: loss curves, and final accuracy against the LR.

python -m lrflow.recipes.logistic.picture outputs/sweeps/SWEEP picture.png --bound "at the start=0.61"
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrflow.config.saved import load_config
from lrflow.display import FAINT, GREY, INK
from lrflow.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 6  # maximum number of loss curves


@dataclass(frozen=True)
class Run:
    """A run of the sweep.

    Args:
        lr: peak LR.
        losses: training loss per step.
        accuracy: final validation accuracy.
    """

    lr: float
    losses: list[float]
    accuracy: float

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the run of a run folder."""
        with (folder / "metrics.csv").open(newline="") as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
        metrics = json.loads((folder / "summary.json").read_text())["metrics"]
        lr = load_config(folder / "config.yaml").optimizer.lr
        return cls(float(lr), losses, metrics.get("val/accuracy", np.nan))


def read_sweep(folder: Path) -> list[Run]:
    """Return the runs of a sweep folder, sorted by LR."""
    return sorted((Run.read(path.parent) for path in folder.glob("*/summary.json")), key=lambda run: run.lr)


def draw(runs: Sequence[Run], bounds: dict[str, float], file: Path) -> None:
    """Plot the loss against the step at some of the LRs, and the accuracy against the LR.

    Args:
        runs: runs of a sweep; for several at one LR, the first loss curve and the mean accuracy are drawn.
        bounds: LRs to mark in the second panel, by name.
        file: path of the PNG.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # instead of pyplot, which keeps state and may need a display

    rates = sorted({run.lr for run in runs})
    colours = dict(zip(rates, colormaps["turbo"](np.linspace(0.08, 0.92, len(rates))), strict=True))
    figure = Figure((10, 4.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    picked = np.unique(np.linspace(0, len(rates) - 1, min(SHOWN, len(rates))).round().astype(int))
    for rate in [rates[index] for index in picked]:
        losses = next(run.losses for run in runs if run.lr == rate)
        left.plot(losses, color=colours[rate], linewidth=1.6, label=f"LR {number(rate)}")
    left.set_yscale("log")
    left.set_xlabel("step", color=INK)
    left.set_title("training loss", loc="left", fontsize=11, color=INK)
    left.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    for rate in rates:
        found = [run.accuracy for run in runs if run.lr == rate]
        spread = np.std(found, ddof=1) if len(found) > 1 else None
        right.errorbar(rate, np.mean(found), yerr=spread, fmt="o", color=colours[rate], markersize=6, capsize=3)
    right.plot(rates, [np.mean([run.accuracy for run in runs if run.lr == rate]) for rate in rates], color=GREY, lw=0.8)
    for name, bound in bounds.items():
        right.axvline(bound, color=INK, linewidth=1.1, linestyle="--")
        place = {"transform": right.get_xaxis_transform(), "rotation": 90, "ha": "right", "va": "bottom"}
        right.text(bound, 0.03, f"2 / L {name}: {number(bound)}", fontsize=9, color=INK, **place)
    right.set_xscale("log")
    right.set_xlabel("LR", color=INK)
    right.set_title("validation accuracy", loc="left", fontsize=11, color=INK)
    for axes in (left, right):
        _plain(axes)
    figure.savefig(file, dpi=110)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9, length=3)


def main() -> None:
    """Plot a sweep."""
    parser = argparse.ArgumentParser(description="Draw a sweep of recipe=logistic over optimizer.lr.")
    parser.add_argument("sweep", type=Path, help="a sweep folder")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--bound", action="append", default=[], metavar="NAME=LR", help="an LR to mark")
    arguments = parser.parse_args()
    runs = read_sweep(arguments.sweep)
    if not runs:
        parser.error(f"{arguments.sweep}: expected the folder of a sweep")
    bounds = {name: float(lr) for name, _, lr in (bound.rpartition("=") for bound in arguments.bound)}
    draw(runs, bounds, arguments.picture)


if __name__ == "__main__":
    main()

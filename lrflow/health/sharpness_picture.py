"""The sharpness of a run against its stability bound, drawn from the run folder alone."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrflow.display import COLOURS, INK, number, plain_axes, save_figure

COLUMNS = ("sharpness/top", "sharpness/share")
"""Of metrics.csv: the largest eigenvalue of P^-1 H, and the share of the stability bound that the step's LRs use."""


@dataclass(frozen=True)
class SharpnessRecord:
    """What a run measured of its sharpness, and the bound that its LRs set it.

    Args:
        steps: of the measurements; [n], int64.
        top: sharpness; [n], float64.
        share: of the bound; [n], float64.
        lr_steps: steps whose LRs are known; [m], int64.
        lr: the highest of any group at each; [m], float64.
    """

    steps: np.ndarray
    top: np.ndarray
    share: np.ndarray
    lr_steps: np.ndarray
    lr: np.ndarray

    @property
    def bound(self) -> np.ndarray:
        """The sharpness at which each step's LRs would be just stable; [m], infinite where the LR is 0.

        It is limit / LR. The limit is read from the measurements, and between them goes from one to the next: so it
        holds for groups with LRs of their own and for a momentum that moves, too.
        """
        at = np.interp(self.steps, self.lr_steps, self.lr)
        known = (self.share > 0) & (at > 0)
        if not known.any():
            return np.full(len(self.lr), np.inf)
        limit = self.top[known] / self.share[known] * at[known]
        with np.errstate(divide="ignore"):
            return np.interp(self.lr_steps, self.steps[known], limit) / self.lr


def read_sharpness(folder: Path) -> SharpnessRecord | None:
    """What the metrics.csv of a run folder says of the sharpness; None where nothing was measured."""
    measured: list[tuple[int, float, float]] = []
    rates: list[tuple[int, float]] = []
    if not (folder / "metrics.csv").exists():
        return None
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if not {*COLUMNS} <= {*header}:
            return None
        top, share = (header.index(name) for name in COLUMNS)
        groups = [index for index, name in enumerate(header) if name.startswith("lr/")]
        for row in rows:
            if len(row) < len(header):
                continue  # the torn last line of a run that was killed
            if row[top]:
                measured.append((int(row[0]), float(row[top]), float(row[share])))
            if used := [float(row[index]) for index in groups if row[index]]:
                rates.append((int(row[0]), max(used)))
    finite = [row for row in measured if np.isfinite(row[1:]).all()]
    if not finite or not rates:
        return None
    steps, tops, shares = (np.array(column) for column in zip(*finite, strict=True))
    lr_steps, lr = (np.array(column) for column in zip(*rates, strict=True))
    return SharpnessRecord(steps, tops, shares, lr_steps, lr)


def draw_sharpness(folder: Path) -> Path | None:
    """Draw `sharpness.png` in a run folder from its metrics.csv; None where nothing was measured."""
    record = read_sharpness(folder)
    if record is None:
        return None
    from matplotlib.figure import Figure  # itself and not pyplot: no state, no display

    figure = Figure(figsize=(9, 5.6), layout="constrained", facecolor="white")
    axes, below = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    bound = record.bound
    axes.plot(record.lr_steps, bound, color=COLOURS[1], linewidth=1.4, label="stability bound (limit / LR)")
    axes.plot(record.steps, record.top, "o-", color=COLOURS[0], linewidth=1.4, markersize=3, label="sharpness")
    if (convex := record.top[record.top > 0]).size:
        axes.set_yscale("log")
        # A warmup starts, and a decay ends, where any sharpness is stable; the picture need not reach there.
        around = [*convex, bound.min()]
        axes.set_ylim(min(around) / 1.5, max(around) * 3)
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(lambda value, _: number(value))
    axes.set_ylabel("sharpness", color=INK)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    below.axhline(1.0, color=COLOURS[1], linewidth=1.4)
    below.plot(record.steps, record.share, "o-", color=COLOURS[0], linewidth=1.4, markersize=3)
    below.set_ylim(0, max(1.25, 1.1 * float(record.share.max())))
    below.set_ylabel("share of the bound", color=INK)
    below.set_xlim(0, record.lr_steps[-1] + 1)
    below.set_xlabel("optimizer step", color=INK)
    below.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    for panel in (axes, below):
        plain_axes(panel)
        panel.tick_params(which="both", colors=INK, length=3)
    highest = int(record.share.argmax())
    title = f"at most {100 * record.share[highest]:.3g}% of the stability bound, at step {record.steps[highest]:,}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    return save_figure(figure, folder / "sharpness.png")

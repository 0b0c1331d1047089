"""A range test drawn: the loss against the learning rate, with what was read from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lrflow.plan.picture import COLOURS, FAINT, GREY, INK
from lrflow.plan.view import number
from lrflow.tuning.range_test import RangeTest
from lrflow.tuning.rules import Reading, smooth


def plot(test: RangeTest, reading: Reading, configured: float, path: Path) -> Path:
    """Draw the sweeps, their mean, the LR that was found with its interval, every rule's mark and the divergence.

    Args:
        test: what was measured.
        reading: what was read from it.
        configured: the LR that the config says.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # itself and not pyplot: no state, no display

    figure = Figure(figsize=(9, 4.8), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    lows, highs = [], []
    for losses in test.losses:
        known = np.isfinite(losses)
        if known.sum() < 3:
            continue
        axes.plot(test.rates[known], losses[known], color=GREY, alpha=0.25, linewidth=0.7)
        values, _ = smooth(test.rates[known], losses[known])
        lows.append(values.min())
        highs.append(np.median(losses[known][: max(3, known.sum() // 10)]))
    everywhere = np.isfinite(test.losses).all(0)
    if everywhere.sum() >= 3:
        mean, _ = smooth(test.rates[everywhere], test.losses[:, everywhere].mean(0))
        axes.plot(test.rates[everywhere], mean, color=COLOURS[0], linewidth=2.2, label=f"mean of {len(test.losses)}")
    bottom, top = min(lows, default=0.0), max(highs, default=1.0)
    room = max(top - bottom, 1e-9)
    axes.set_ylim(bottom - 0.15 * room, top + 0.4 * room)
    axes.axvspan(*reading.interval, color=COLOURS[2], alpha=0.2, linewidth=0)
    axes.axvline(reading.lr, color=COLOURS[2], linewidth=2.2, label=f"LR {number(reading.lr)}")
    marks = [(name, rate) for name, rate in reading.marks.items() if rate != reading.lr]
    for (name, rate), colour in zip(marks, (COLOURS[1], *COLOURS[3:]), strict=False):
        axes.axvline(rate, color=colour, linewidth=1.2, linestyle="--", label=f"{name} {number(rate)}")
    if reading.ceiling:
        axes.axvspan(reading.ceiling, test.rates[-1], color="black", alpha=0.06, linewidth=0, label="diverged")
    if test.rates[0] <= configured <= test.rates[-1]:
        axes.axvline(configured, color=INK, linewidth=1.2, linestyle=":", label=f"configured {number(configured)}")
    axes.set_xscale("log")
    axes.set_xlim(test.rates[0], test.rates[-1])
    axes.set_xlabel("peak LR", color=INK)
    axes.set_ylabel("training loss", color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    doubt = "" if reading.confident else "  (not confident)"
    low, high = reading.interval
    axes.set_title(
        f"range test: LR {number(reading.lr)}, {number(low)} to {number(high)}{doubt}",
        loc="left",
        fontsize=11,
        color=INK,
    )
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=9, labelcolor=INK
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path

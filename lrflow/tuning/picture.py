"""A range test drawn: the loss against the learning rate, with what was read from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrflow.display import COLOURS, GREY, INK, number, plain_axes, save_figure
from lrflow.tuning.confirm import Confirmed
from lrflow.tuning.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_range_test(record: Record, path: Path) -> Path:
    """Draw the sweeps, their mean, the LR that was found with its interval, every rule's mark and the divergence.

    Args:
        record: what is drawn; what trial runs said stands below.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # itself and not pyplot: no state, no display

    test, reading, confirmed = record.test, record.reading, record.confirmed
    figure = Figure(figsize=(9, 4.8 if confirmed is None else 7.0), layout="constrained", facecolor="white")
    axes, *below = figure.subplots(
        2 if confirmed else 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + bool(confirmed)]
    )[:, 0]
    for losses in test.losses:
        known = np.isfinite(losses)
        axes.plot(test.rates[known], losses[known], color=GREY, alpha=0.25, linewidth=0.7)
    axes.plot(*record.mean(), color=COLOURS[0], linewidth=2.2, label=f"mean of {len(test.losses)}")
    axes.set_ylim(record.span())
    axes.axvspan(*reading.interval, color=COLOURS[2], alpha=0.2, linewidth=0)
    axes.axvline(reading.lr, color=COLOURS[2], linewidth=2.2, label=f"LR {number(reading.lr)}")
    marks = [(name, rate) for name, rate in reading.marks.items() if rate != reading.lr]
    for (name, rate), colour in zip(marks, (COLOURS[1], *COLOURS[3:]), strict=False):
        axes.axvline(rate, color=colour, linewidth=1.2, linestyle="--", label=f"{name} {number(rate)}")
    if reading.ceiling:
        axes.axvspan(reading.ceiling, test.rates[-1], color="black", alpha=0.06, linewidth=0, label="diverged")
    if test.rates[0] <= record.configured <= test.rates[-1]:
        label = f"configured {number(record.configured)}"
        axes.axvline(record.configured, color=INK, linewidth=1.2, linestyle=":", label=label)
    axes.set_xscale("log")
    axes.set_xlim(test.rates[0], test.rates[-1])
    axes.set_ylabel(record.label, color=INK)
    if confirmed:
        _draw_short_runs(below[0], confirmed, record)
    for panel in (axes, *below):
        plain_axes(panel)
    (below or [axes])[-1].set_xlabel("peak LR", color=INK)
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
    return save_figure(figure, path)


def _draw_short_runs(axes: Axes, confirmed: Confirmed, record: Record) -> None:
    """What trial runs ended at, those that diverged as crosses where it is worst, and the LR between them."""
    ended = [(rate, loss) for rate, loss in confirmed.tried if np.isfinite(loss)]
    rates, losses = zip(*ended, strict=True)
    axes.plot(rates, losses, "o-", color=COLOURS[0], linewidth=1.2, markersize=5)
    diverged = [rate for rate, loss in confirmed.tried if not np.isfinite(loss)]
    axes.plot(
        diverged,
        [max(losses, key=lambda loss: record.sign * loss)] * len(diverged),
        "x",
        color=COLOURS[1],
        markersize=7,
    )
    axes.axvspan(*confirmed.interval, color=COLOURS[2], alpha=0.2, linewidth=0)
    axes.axvline(confirmed.lr, color=COLOURS[2], linewidth=2.2)
    what = "loss" if record.label == "training loss" else record.label
    axes.set_ylabel(f"{what} after a trial run", color=INK)
    title = f"trial runs: LR {number(confirmed.lr)}{'' if confirmed.confident else '  (not confident)'}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)

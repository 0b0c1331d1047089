"""The sharpness that a run measured, read from its metrics.csv, and its plot against the stability bound of the LR."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrflow.columns import SHARPNESS
from lrflow.display import CURVES, INK, plain_axes, save_figure
from lrflow.history import History, read_history
from lrflow.wording import number


@dataclass(frozen=True)
class SharpnessRecord:
    """The sharpness that a run measured, with its LRs.

    Args:
        steps: the steps at which it was measured; [n], int64.
        top: the sharpness; [n], float64.
        share: the share of the stability bound; [n], float64.
        lr_steps: the steps with a known LR; [m], int64.
        lr: the highest LR of any group at these; [m], float64.
    """

    steps: np.ndarray
    top: np.ndarray
    share: np.ndarray
    lr_steps: np.ndarray
    lr: np.ndarray

    @property
    def bound(self) -> np.ndarray:
        """The sharpness at which each step's LRs would be just stable; [m], infinite where the LR is 0.

        It is limit / LR. The limit is computed at the measurements and interpolated between them, so it also holds for
        groups with different LRs and for a scheduled momentum.
        """
        at = np.interp(self.steps, self.lr_steps, self.lr)
        usable = (self.share > 0) & (at > 0)
        if not usable.any():
            return np.full(len(self.lr), np.inf)
        limit = self.top[usable] / self.share[usable] * at[usable]
        with np.errstate(divide="ignore"):
            return np.interp(self.lr_steps, self.steps[usable], limit) / self.lr


def read_sharpness(folder: Path) -> SharpnessRecord | None:
    """Read the sharpness from the metrics.csv of a run folder; None if nothing was measured."""
    found = read_history(folder / "metrics.csv", lambda name: name in SHARPNESS or name.startswith("lr/"))
    return sharpness_in(found)


def sharpness_in(history: History) -> SharpnessRecord | None:
    """Return the sharpness in the history of a run; None if nothing was measured, or no curvature was finite."""
    top, share = (history[name] for name in SHARPNESS)
    rates = [history[f"lr/{name}"] for name in history.groups("lr")]
    steps, places, others = np.intersect1d(top.steps, share.steps, return_indices=True)
    tops, shares = top.values[places], share.values[others]
    finite = np.isfinite(tops) & np.isfinite(shares)
    if not finite.any() or not rates:
        return None
    lr_steps, place = np.unique(np.concatenate([rate.steps for rate in rates]), return_inverse=True)
    lr = np.full(len(lr_steps), -np.inf)
    np.maximum.at(lr, place, np.concatenate([rate.values for rate in rates]))
    return SharpnessRecord(steps[finite], tops[finite], shares[finite], lr_steps, lr)


def plot_sharpness(folder: Path) -> Path | None:
    """Draw `sharpness.png` in a run folder from its metrics.csv; None if nothing was measured."""
    record = read_sharpness(folder)
    if record is None:
        return None
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    figure = Figure(figsize=(9, 5.6), layout="constrained", facecolor="white")
    axes, share_axes = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    bound = record.bound
    axes.plot(record.lr_steps, bound, color=CURVES[1], linewidth=1.4, label="stability bound (limit / LR)")
    axes.plot(record.steps, record.top, "o-", color=CURVES[0], linewidth=1.4, markersize=3, label="sharpness")
    if (convex := record.top[record.top > 0]).size:
        axes.set_yscale("log")
        # At the LR 0 of a warmup's start or a decay's end any sharpness is stable; the plot leaves that out.
        around = [*convex, bound.min()]
        axes.set_ylim(min(around) / 1.5, max(around) * 3)
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(lambda value, _: number(value))
    axes.set_ylabel("sharpness", color=INK)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    share_axes.axhline(1.0, color=CURVES[1], linewidth=1.4)
    share_axes.plot(record.steps, record.share, "o-", color=CURVES[0], linewidth=1.4, markersize=3)
    share_axes.set_ylim(0, max(1.25, 1.1 * float(record.share.max())))
    share_axes.set_ylabel("share of the bound", color=INK)
    share_axes.set_xlim(0, record.lr_steps[-1] + 1)
    share_axes.set_xlabel("optimizer step", color=INK)
    share_axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    for panel in (axes, share_axes):
        plain_axes(panel)
        panel.tick_params(which="both", colors=INK, length=3)
    highest = int(record.share.argmax())
    title = f"at most {100 * record.share[highest]:.3g}% of the stability bound, at step {record.steps[highest]:,}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    return save_figure(figure, folder / "sharpness.png")

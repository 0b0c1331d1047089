"""The record of a batch-size search: its recommendation, `find.csv`, `find.json`, and the plot `find.png`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lrflow.config import Config
from lrflow.config.step_batch import step_batch
from lrflow.display import CURVES, INK, Grid, plain_axes, save_figure
from lrflow.files import write_json, write_whole
from lrflow.plan.batch_scaling import BatchScaling, StepBatch
from lrflow.tuning.batch_size import SATURATED, Try, saturated_size
from lrflow.wording import counted, number

COLUMNS = ("batch_size", "fits", "examples_per_second", "step_seconds", "memory_bytes", "reason")


@dataclass(frozen=True)
class BatchSizes:
    """The tries of a batch-size search, at least one of which fits, and what follows from them.

    Args:
        tries: by size.
        limit: number of training examples or `find.max`, if that is less.
        margin: share of the largest batch size that is left free.
        configured: `data.batch_size` of the run; None: it has none.
        effective: `data.effective_batch_size` of the run; None: it has none.
        find_max: `find.max` of the run.
    """

    tries: Sequence[Try]
    limit: int
    margin: float
    configured: int | None = None
    effective: int | None = None
    find_max: int | None = None

    @cached_property
    def largest(self) -> int:
        """The largest batch size that was tried and fits."""
        return max(one.batch_size for one in self.tries if one.fits)

    @property
    def is_limited(self) -> bool:
        """Whether memory limits the largest batch size, and not the number of examples or `find.max`."""
        return self.largest < self.limit

    @property
    def largest_to_use(self) -> int:
        """The largest batch size with the margin left free; with an effective batch, one that divides it."""
        most = max(1, int(self.largest * (1 - self.margin))) if self.is_limited else self.largest
        return self._divisor(most)

    @property
    def fastest_to_use(self) -> int:
        """The smallest batch size whose throughput is saturated, at most `largest_to_use`; a divisor as that one."""
        return self._divisor(min(saturated_size(self.tries), self.largest_to_use))

    def _divisor(self, most: int) -> int:
        if self.effective is None:
            return most
        return StepBatch.nearest_per_device(self.effective, most, 1) or most

    def throughput(self, size: int) -> float | None:
        """Return the examples per second of a size; None if it was not measured."""
        return next((one.throughput for one in self.tries if one.batch_size == size), None)

    def table(self) -> Grid:
        """Return the table of the tries, with the throughput as a share of the highest one."""
        highest = max(one.throughput or 0.0 for one in self.tries)
        table = Grid("batch size", "examples/s", "share", "ms/step", "MiB", "<")
        for one in self.tries:
            if one.throughput is None or one.step_seconds is None:
                table.row(f"{one.batch_size:,}", "", "", "", "", one.reason, style="dim")
                continue
            memory = "" if one.memory is None else f"{one.memory / 2**20:,.0f}"
            share, milliseconds = f"{100 * one.throughput / highest:.0f}%", 1000 * one.step_seconds
            taken = f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
            table.row(f"{one.batch_size:,}", f"{one.throughput:,.0f}", share, taken, memory)
        return table

    def lines(self) -> list[str]:
        """Return the lines that name the batch sizes to use."""
        largest, fastest, share = self.largest_to_use, self.fastest_to_use, f"{100 * SATURATED:.0f}%"
        if self.is_limited:
            why = f"{self.largest:,} is the largest that fits" + (
                f", less {100 * self.margin:g}%" if self.margin else ""
            )
        else:
            what = "find.max" if self.limit == self.find_max else "the number of training examples"
            why = f"all sizes up to {self.limit:,} fit, which is {what}"
        if self.effective is not None:
            why += f"; it divides data.effective_batch_size={self.effective}"
        lines = [f"[bold]data.batch_size={largest}[/]  {why}"]
        if fastest < largest:
            lines.append(f"[bold]data.batch_size={fastest}[/]  is the smallest with {share} of the highest throughput")
        return lines

    def about_configured(self) -> str | None:
        """Return a line about the configured batch size; None if the run has none."""
        size = self.configured
        if size is None:
            return None
        if size > self.largest:
            return f"data.batch_size={size} does not fit: the largest that does is {self.largest}"
        highest, own = max(one.throughput or 0.0 for one in self.tries), self.throughput(size) or 0.0
        return f"data.batch_size={size} fits, with {100 * own / highest:.0f}% of the highest throughput"

    def write(self, folder: Path, scaling: Mapping[str, Any]) -> None:
        """Write `find.csv`, `find.json` and `find.png`.

        Args:
            folder: of the run.
            scaling: how the peak LR follows the batch size; becomes part of `find.json`.
        """
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(COLUMNS)
        for one in self.tries:
            cells = (one.throughput, one.step_seconds, one.memory, one.reason)
            table.writerow([one.batch_size, str(one.fits).lower(), *("" if cell is None else cell for cell in cells)])
        write_whole(folder / "find.csv", text.getvalue())
        content: dict[str, Any] = {
            "batch_size": self.largest_to_use,
            "saturated": self.fastest_to_use,
            "largest": self.largest,
        }
        content |= {"limited_by_memory": self.is_limited, "margin": self.margin, "configured": self.configured}
        write_json(folder / "find.json", {**content, "effective": self.effective, "scaling": dict(scaling)})
        self._plot(folder / "find.png")

    def _plot(self, path: Path) -> None:
        """Draw the throughput against the batch size, the sizes to use, and those that do not fit."""
        from matplotlib.figure import Figure  # without pyplot, which keeps state and may need a display

        figure = Figure(figsize=(9, 4.8), layout="constrained", facecolor="white")
        axes = figure.subplots()
        sizes, throughputs = zip(*((one.batch_size, one.throughput) for one in self.tries if one.fits), strict=True)
        axes.plot(sizes, throughputs, "o-", color=CURVES[0], linewidth=1.6, markersize=5, label="measured")
        axes.axhline(SATURATED * max(throughputs), color=INK, linewidth=1, linestyle=":", label=f"{SATURATED:.0%}")
        marks = {self.largest_to_use: "largest to use", self.fastest_to_use: "smallest as fast"}
        for (size, words), colour in zip(marks.items(), (CURVES[1], CURVES[2]), strict=False):
            axes.axvline(size, color=colour, linewidth=2, label=f"{size:,}: {words}")
        if failed := [one.batch_size for one in self.tries if not one.fits]:
            axes.axvspan(min(failed), max(failed) * 1.2, color="black", alpha=0.06, linewidth=0, label="does not fit")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("batch size", color=INK)
        axes.set_ylabel("training examples per second", color=INK)
        axes.set_title(
            f"batch size: {self.largest_to_use:,}, as fast from {self.fastest_to_use:,}", loc="left", color=INK
        )
        plain_axes(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=9)
        save_figure(figure, path)


def scaled_rates(config: Config, size: int) -> tuple[dict[str, float], str]:
    """Return how the peak LR follows from the configured batch to one of another `data.batch_size`.

    Args:
        config: of the run.
        size: the new `data.batch_size`.

    Returns:
        The new peak LR by the rule of `scaling`, and one line about it.
    """
    lr, now = config.optimizer.lr, step_batch(config)
    if config.data.effective_batch_size is not None:
        return (
            {},
            f"the peak LR stays {number(lr)}: an optimizer step still has {config.data.effective_batch_size} examples",
        )
    if now is None:
        return {}, ""
    asked = config.scaling
    reference = asked.reference if asked.rule in ("linear", "sqrt") and asked.reference else now.size
    batch = StepBatch(size, now.devices, now.accumulated).size
    rules = ("linear", "sqrt") if asked.rule in ("none", "transfer") else (asked.rule,)
    rates = {rule: lr * BatchScaling(rule, batch, reference).factor for rule in rules}
    if asked.rule in rates and len(rates) == 1:
        return rates, f"with scaling={asked.rule} its peak LR is {number(rates[asked.rule])}"
    ways = " and ".join(f"scaling={rule} {number(rate)}" for rule, rate in rates.items())
    line = f"its peak LR: without scaling {number(lr)}, with scaling.reference={reference} {ways}"
    return rates, f"{line} ({counted(batch, 'example')} per step)"

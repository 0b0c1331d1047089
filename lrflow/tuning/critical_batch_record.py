"""The record of a critical batch: its table and lines, `find.csv`, `find.json`, and the plot `find.png`."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.display import CURVES, INK, Grid, plain_axes, save_figure
from lrflow.files import write_json, write_whole
from lrflow.tuning.critical_batch import CONFIDENCE, GradientNoiseRun
from lrflow.wording import counted, number

SGD_EXPONENT, OTHER_EXPONENTS = (1.0,), (0.5, 1.0)
"""How the best LR follows the batch, as a power of the share of signal in its gradient; others: as for Adam."""
WAYS = 4  # doublings that the table goes beyond this batch and the critical one


@dataclass(frozen=True)
class CriticalBatch:
    """A critical batch, and what follows from it.

    Args:
        run: the noise of the gradients of a run.
        lr: its peak LR, which is taken for the best at its batch.
        is_sgd: whether its steps are proportional to the gradient, as those of SGD.
    """

    run: GradientNoiseRun
    lr: float
    is_sgd: bool

    @cached_property
    def size(self) -> int:
        """The critical batch as a number of examples."""
        return max(1, round(self.run.critical))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The interval of the critical batch; its upper end may be infinite."""
        return self.run.interval

    def rates(self, batch: float) -> tuple[float, float]:
        """Return the interval of the best peak LR at another batch."""
        low, high = self.run.lr_factors(batch, SGD_EXPONENT if self.is_sgd else OTHER_EXPONENTS)
        return self.lr * low, self.lr * high

    def sizes(self) -> list[float]:
        """Return the batches of the table: doublings of this one, around it and the critical one."""
        own, critical = self.run.batch, self.run.critical
        sizes = own * 2.0 ** np.arange(-20, 21)
        low, high = min(own, critical) / WAYS, max(own, critical) * WAYS
        return [size for size in sizes.tolist() if size >= 1 and size == round(size) and low <= size <= high]

    def table(self) -> Grid:
        """Return the table of what other batches would cost, relative to this run."""
        table = Grid("batch", "steps", "examples", "twice as large saves", "peak LR", "<")
        for size in self.sizes():
            steps, own = self.run.steps_factor(size), size == self.run.batch
            examples = steps * size / self.run.batch
            low, high = (number(rate) for rate in self.rates(size))
            rates = low if low == high else f"{low} to {high}"
            saved = f"{100 * self.run.saved_by_doubling(size):.0f}% of steps"
            mark = "this run" if own else ""
            table.row(f"{size:,.0f}", f"x {steps:.3g}", f"x {examples:.3g}", saved, rates, mark)
        return table

    def lines(self) -> list[str]:
        """Return the answer, and how the noise changed over the run."""
        low, high = self.interval
        span = f"{low:,.0f} to {high:,.0f}" if np.isfinite(high) else f"{low:,.0f} or more"
        confidence = f"with {100 * CONFIDENCE:.0f}% confidence over {counted(len(self.run.steps), 'measurement')}"
        lines = [f"[bold]critical batch {counted(self.size, 'example')}[/]  {span}, {confidence}"]
        first, last = (f"{scale:,.0f}" if np.isfinite(scale) else "unmeasurable" for scale in self.run.scales[[0, -1]])
        if len(self.run.stretches) > 1:
            share = f"{100 / len(self.run.stretches):.0f}% of the run"
            lines.append(f"noise scale: {first} in the first {share}, {last} in the last")
        lines += [f"[bold yellow]not confident:[/] {doubt}" for doubt in self.run.doubts]
        return lines

    def advice(self) -> str:
        """Return the line on what to do."""
        own, critical = self.run.batch, self.run.critical
        saved = f"{100 * self.run.saved_by_doubling(own):.0f}% of the steps"
        low, high = (number(rate) for rate in self.rates(self.size))
        rule = "proportional to 1 / (1 + critical / batch), for SGD"
        if not self.is_sgd:
            rule = "to the power 0.5 to 1 of 1 / (1 + critical / batch), as for Adam"
        text = f"At {own:,.0f} examples per step, twice as many save {saved}"
        text += ": a larger batch pays" if own <= critical / 2 else ", but cost more examples"
        return (
            f"{text}. At the critical batch the peak LR is {low} to {high}, {rule}, if {number(self.lr)} is best here."
        )

    def result(self) -> dict[str, Any]:
        """Return the results as plain numbers: the critical batch, its interval `low` to `high`, and `doubts`."""
        low, high = self.interval
        return {"critical_batch": self.size, "low": low, "high": high, "doubts": self.run.doubts}

    def write(self, folder: Path) -> None:
        """Write `find.csv` (the estimates of each step), `find.json` and `find.png`."""
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["step", "trace", "squared"])
        table.writerows(zip(self.run.steps.tolist(), self.run.trace.tolist(), self.run.squared.tolist(), strict=True))
        write_whole(folder / "find.csv", text.getvalue())
        low, high = self.interval
        content: dict[str, Any] = {"critical_batch": self.size, "interval": [low, high if np.isfinite(high) else None]}
        content |= {"confident": not self.run.doubts, "doubts": self.run.doubts, "batch": self.run.batch}
        starts = [int(self.run.steps[part[0]]) for part in self.run.stretches]
        scales = [scale if np.isfinite(scale) else None for scale in self.run.scales.tolist()]
        content |= {"lr": self.lr, "critical_lr": list(self.rates(self.size)), "steps": len(self.run.steps)}
        noise = [{"step": step, "noise_scale": scale} for step, scale in zip(starts, scales, strict=True)]
        others = {f"{size:.0f}": list(self.rates(size)) for size in self.sizes()}
        write_json(folder / "find.json", {**content, "noise": noise, "lr_at": others})
        self._plot(folder / "find.png")

    def _plot(self, path: Path) -> None:
        """Draw the noise scale over the run, and the steps and examples that each batch takes."""
        from matplotlib.figure import Figure  # without pyplot, which keeps state and may need a display
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(11, 4.4), layout="constrained", facecolor="white")
        over, cost = figure.subplots(1, 2)
        run = self.run
        middles = np.array([run.steps[part].mean() for part in run.stretches])
        low, high = run.intervals
        shown = np.isfinite(run.scales)
        top = 2 * max(float(run.scales[shown].max(initial=0)), run.critical)
        over.fill_between(middles, low, np.minimum(high, top * 1e3), color=CURVES[0], alpha=0.2, linewidth=0)
        over.plot(middles[shown], run.scales[shown], "o-", color=CURVES[0], markersize=5, label="noise scale")
        over.axhline(run.batch, color=INK, linewidth=1, linestyle=":", label=f"{run.batch:,.0f}: this run")
        over.axhline(run.critical, color=CURVES[2], linewidth=2, label=f"{self.size:,}: critical")
        over.set_yscale("log", base=2)
        over.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        over.set_ylim(top=4 * top)
        over.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        over.set_xlabel("step", color=INK)
        over.set_ylabel("examples", color=INK)
        over.set_title(f"critical batch: {self.size:,}", loc="left", color=INK)
        sizes = run.critical * np.geomspace(1 / 32, 32, 101)
        cost.plot(1 + run.critical / sizes, 1 + sizes / run.critical, color=CURVES[0], linewidth=1.6)
        marks = {run.critical: (CURVES[2], "critical"), run.batch: (INK, "this run")}
        for size, (colour, words) in marks.items():
            cost.plot(
                1 + run.critical / size, 1 + size / run.critical, "o", color=colour, label=f"{size:,.0f}: {words}"
            )
        cost.set_xscale("log", base=2)
        cost.set_yscale("log", base=2)
        for axis in (cost.xaxis, cost.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        cost.set_xlabel("steps, in multiples of the fewest possible", color=INK)
        cost.set_ylabel("examples, in multiples of the fewest possible", color=INK)
        for axes in (over, cost):
            plain_axes(axes)
            axes.legend(frameon=False, fontsize=9)
        save_figure(figure, path)

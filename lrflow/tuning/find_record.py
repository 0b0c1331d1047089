"""The record of a range test: `find.csv` and `find.json`, written and read, and the plot `find.png`."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrflow.display import CURVES, GREY, INK, plain_axes, save_figure
from lrflow.files import write_json, write_whole
from lrflow.metric import TRAIN_LOSS, Metric
from lrflow.schedules.time import Floats
from lrflow.tuning.confirmation import Confirmation
from lrflow.tuning.suggestion import Suggestion, smooth
from lrflow.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_DRAWN = 3  # points of a line


@dataclass(frozen=True)
class RangeTest:
    """The readings of several sweeps over the same LRs.

    Args:
        rates: the run's peak LR at each reading, rising by equal factors; [n].
        losses: the readings of each sweep; [sweeps, n], NaN after its end.
        every: optimizer steps per LR; each LR is read after the last of them.
    """

    rates: Floats
    losses: Floats
    every: int = 1

    @property
    def steps(self) -> int:
        """Optimizer steps of all sweeps together."""
        return self.every * int(np.sum(np.cumsum(~np.isnan(self.losses[:, ::-1]), 1)[:, ::-1] > 0))

    def write(self, path: Path) -> Path:
        """Write one row per LR with one column per sweep, and return the path."""
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["lr", *(f"loss_{index}" for index in range(len(self.losses)))])
        for rate, losses in zip(self.rates.tolist(), self.losses.T.tolist(), strict=True):
            table.writerow([rate, *("" if loss != loss else loss for loss in losses)])
        return write_whole(path, text.getvalue())

    @classmethod
    def read(cls, path: Path, every: int = 1) -> RangeTest:
        """Return the range test that `write` wrote; `every` is not in the file."""
        with path.open(newline="") as file:
            _, *rows = csv.reader(file)
        table = np.array([[float(cell or "nan") for cell in row] for row in rows])
        return cls(table[:, 0], table[:, 1:].T, every)


@dataclass(frozen=True)
class Record:
    """A range test, the LR that it suggests and the LR that trial runs confirm.

    Args:
        test: the readings.
        suggestion: the LR that they suggest.
        monitor: the metric that was read.
        mode: `min` if lower is better, `max` if higher is.
        configured: the configured peak LR.
        confirmed: the LR that trial runs confirm; None: none were made.
        short_steps: optimizer steps of all trial runs.
    """

    test: RangeTest
    suggestion: Suggestion
    monitor: str
    mode: str
    configured: float
    confirmed: Confirmation | None = None
    short_steps: int = 0

    @property
    def answer(self) -> Suggestion | Confirmation:
        """The LR to use: the confirmed one if there is one, else the suggested one."""
        return self.confirmed or self.suggestion

    @property
    def steps(self) -> int:
        """Optimizer steps of all sweeps and trial runs."""
        return self.test.steps + self.short_steps

    @property
    def sign(self) -> float:
        """1 if lower is better, -1 if higher is."""
        return Metric.parse(self.monitor, self.mode).sign

    @property
    def label(self) -> str:
        """The metric's name in figures."""
        return "training loss" if self.monitor == TRAIN_LOSS else self.monitor

    def mean(self) -> tuple[Floats, Floats]:
        """Return the LRs that every sweep reached, and the smoothed mean of the readings there; [n] each."""
        finite = np.isfinite(self.test.losses).all(0)
        if finite.sum() < MIN_DRAWN:
            return np.empty(0), np.empty(0)
        rates = self.test.rates[finite]
        return rates, smooth(rates, self.test.losses[:, finite].mean(0))[0]

    def span(self) -> tuple[float, float]:
        """Return the range of values that a figure shows; it cuts off the divergence at the ends of the sweeps."""
        best, initial = [], []
        for losses in self.test.losses:
            finite = np.isfinite(losses)
            if (count := finite.sum()) >= MIN_DRAWN:
                values, _ = smooth(self.test.rates[finite], self.sign * losses[finite])
                best.append(values.min())
                initial.append(np.median(self.sign * losses[finite][: max(MIN_DRAWN, count // 10)]))
        bottom, top = min(best, default=0.0), max(initial, default=1.0)
        room = max(top - bottom, 1e-9)
        low, high = sorted((self.sign * (bottom - 0.15 * room), self.sign * (top + 0.4 * room)))
        return float(low), float(high)

    def write(self, folder: Path) -> None:
        """Write `find.csv` and `find.json`."""
        self.test.write(folder / "find.csv")
        content = asdict(self.answer) | ({"range_test": asdict(self.suggestion)} if self.confirmed else {})
        content |= {"confident": self.answer.confident, "steps": self.steps, "short_steps": self.short_steps}
        content |= {"monitor": self.monitor, "mode": self.mode, "every": self.test.every, "configured": self.configured}
        write_json(folder / "find.json", content)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Return the record that `write` wrote into a folder."""
        content = json.loads((folder / "find.json").read_text())
        confirmed = _from_json(Confirmation, content) if "range_test" in content else None
        return cls(
            RangeTest.read(folder / "find.csv", content["every"]),
            _from_json(Suggestion, content.get("range_test", content)),
            content["monitor"],
            content["mode"],
            content["configured"],
            confirmed,
            content["short_steps"],
        )

    @classmethod
    def found_in(cls, folder: Path) -> Record | None:
        """Return the record in a folder; None: it has none that can be read, or one of another search or version."""
        try:
            return cls.read(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
            return None


def plot_range_test(record: Record, path: Path) -> Path:
    """Draw the sweeps, their mean, the suggested LR with its interval, the LR of each rule, the divergence.

    Args:
        record: of the range test; trial runs are drawn in a second panel.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # without pyplot, which keeps state and may need a display

    test, suggestion, confirmed = record.test, record.suggestion, record.confirmed
    figure = Figure(figsize=(9, 4.8 if confirmed is None else 7.0), layout="constrained", facecolor="white")
    axes, *below = figure.subplots(
        2 if confirmed else 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + bool(confirmed)]
    )[:, 0]
    for losses in test.losses:
        finite = np.isfinite(losses)
        axes.plot(test.rates[finite], losses[finite], color=GREY, alpha=0.25, linewidth=0.7)
    axes.plot(*record.mean(), color=CURVES[0], linewidth=2.2, label=f"mean of {len(test.losses)}")
    axes.set_ylim(record.span())
    axes.axvspan(*suggestion.interval, color=CURVES[2], alpha=0.2, linewidth=0)
    axes.axvline(suggestion.lr, color=CURVES[2], linewidth=2.2, label=f"LR {number(suggestion.lr)}")
    marks = [(name, rate) for name, rate in suggestion.marks.items() if rate != suggestion.lr]
    for (name, rate), colour in zip(marks, (CURVES[1], *CURVES[3:]), strict=False):
        axes.axvline(rate, color=colour, linewidth=1.2, linestyle="--", label=f"{name} {number(rate)}")
    if suggestion.ceiling:
        axes.axvspan(suggestion.ceiling, test.rates[-1], color="black", alpha=0.06, linewidth=0, label="diverged")
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
    doubt = "" if suggestion.confident else "  (not confident)"
    low, high = suggestion.interval
    axes.set_title(
        f"range test: LR {number(suggestion.lr)}, {number(low)} to {number(high)}{doubt}",
        loc="left",
        fontsize=11,
        color=INK,
    )
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=9, labelcolor=INK
    )
    return save_figure(figure, path)


def _draw_short_runs(axes: Axes, confirmed: Confirmation, record: Record) -> None:
    """Draw the final losses of the trial runs and the confirmed LR; runs that diverged are crosses at the top."""
    ended = [(rate, loss) for rate, loss in confirmed.tried if np.isfinite(loss)]
    rates, losses = zip(*ended, strict=True)
    axes.plot(rates, losses, "o-", color=CURVES[0], linewidth=1.2, markersize=5)
    diverged = [rate for rate, loss in confirmed.tried if not np.isfinite(loss)]
    axes.plot(
        diverged,
        [max(losses, key=lambda loss: record.sign * loss)] * len(diverged),
        "x",
        color=CURVES[1],
        markersize=7,
    )
    axes.axvspan(*confirmed.interval, color=CURVES[2], alpha=0.2, linewidth=0)
    axes.axvline(confirmed.lr, color=CURVES[2], linewidth=2.2)
    name = "loss" if record.label == "training loss" else record.label
    axes.set_ylabel(f"{name} after a trial run", color=INK)
    title = f"trial runs: LR {number(confirmed.lr)}{'' if confirmed.confident else '  (not confident)'}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)


def _from_json(kind: type[Any], content: dict[str, Any]) -> Any:
    """Return a dataclass of this kind, with lists as tuples."""
    return kind(**{field.name: _tuples(content[field.name]) for field in fields(kind)})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value

"""What a range test leaves behind in a folder, from where pictures and pages read it.

A range test drawn: the loss against the learning rate, with what was read from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrflow.display import COLOURS, GREY, INK, number, plain_axes, save_figure
from lrflow.files import write_whole
from lrflow.metric import TRAIN_LOSS, Metric
from lrflow.tuning.confirmation import Confirmed
from lrflow.tuning.range_test import RangeTest
from lrflow.tuning.suggestion import Reading, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Floats = npt.NDArray[np.float64]

FEWEST_DRAWN = 3  # points of a line


@dataclass(frozen=True)
class Record:
    """A range test and what it says.

    Args:
        test: what was measured.
        reading: what was read from it.
        monitor: the metric.
        mode: `min` where less of it is better, `max` where more is.
        configured: the peak LR that the config says.
        confirmed: what trial runs said then; None: none were made.
        short_steps: that these took together.
    """

    test: RangeTest
    reading: Reading
    monitor: str
    mode: str
    configured: float
    confirmed: Confirmed | None = None
    short_steps: int = 0

    @property
    def answer(self) -> Reading | Confirmed:
        """What is to be taken."""
        return self.confirmed or self.reading

    @property
    def steps(self) -> int:
        """Optimizer steps that all of it took."""
        return self.test.steps + self.short_steps

    @property
    def sign(self) -> float:
        """1 where less is better, -1 where more is."""
        return Metric.parse(self.monitor, self.mode).sign

    @property
    def label(self) -> str:
        """What the metric is called in a picture."""
        return "training loss" if self.monitor == TRAIN_LOSS else self.monitor

    def mean(self) -> tuple[Floats, Floats]:
        """The LRs that every sweep reached, and the smoothed mean of what was read there; [n] each."""
        there = np.isfinite(self.test.losses).all(0)
        if there.sum() < FEWEST_DRAWN:
            return np.empty(0), np.empty(0)
        rates = self.test.rates[there]
        return rates, smooth(rates, self.test.losses[:, there].mean(0))[0]

    def span(self) -> tuple[float, float]:
        """Between which values a picture shows the sweeps: an explosion at their ends would hide all the rest."""
        best, start = [], []
        for losses in self.test.losses:
            known = np.isfinite(losses)
            if (count := known.sum()) >= FEWEST_DRAWN:
                values, _ = smooth(self.test.rates[known], self.sign * losses[known])
                best.append(values.min())
                start.append(np.median(self.sign * losses[known][: max(FEWEST_DRAWN, count // 10)]))
        bottom, top = min(best, default=0.0), max(start, default=1.0)
        room = max(top - bottom, 1e-9)
        low, high = sorted((self.sign * (bottom - 0.15 * room), self.sign * (top + 0.4 * room)))
        return float(low), float(high)

    def write(self, folder: Path) -> None:
        """Write `find.csv` and `find.json`."""
        self.test.write(folder / "find.csv")
        content = asdict(self.answer) | ({"range_test": asdict(self.reading)} if self.confirmed else {})
        content |= {"confident": self.answer.confident, "steps": self.steps, "short_steps": self.short_steps}
        content |= {"monitor": self.monitor, "mode": self.mode, "every": self.test.every, "configured": self.configured}
        write_whole(folder / "find.json", json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Record:
        """What `write` wrote into a folder."""
        content = json.loads((folder / "find.json").read_text())
        confirmed = _made(Confirmed, content) if "range_test" in content else None
        return cls(
            RangeTest.read(folder / "find.csv", content["every"]),
            _made(Reading, content.get("range_test", content)),
            content["monitor"],
            content["mode"],
            content["configured"],
            confirmed,
            content["short_steps"],
        )


def _made(kind: type[Any], content: dict[str, Any]) -> Any:
    """A dataclass from what JSON made of it."""
    return kind(**{field.name: _tuples(content[field.name]) for field in fields(kind)})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


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

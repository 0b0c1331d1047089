"""What a range test leaves behind in a folder, from where pictures and pages read it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrflow.files import write_whole
from lrflow.metric import TRAIN_LOSS, Metric
from lrflow.tuning.confirm import Confirmed
from lrflow.tuning.range_test import RangeTest
from lrflow.tuning.reading import Reading
from lrflow.tuning.rules import smooth

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

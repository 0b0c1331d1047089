"""The range test: train for a while under a rising learning rate, several times over, and write down what is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrflow.files import write_whole
from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.schedules import Constant, Duration, Horizon, Schedule
from lrflow.tuning.rules import divergence

Floats = npt.NDArray[np.float64]

LOOK = 10  # readings between two looks for a divergence


@dataclass(frozen=True)
class RangeTest:
    """What several sweeps over the same LRs read.

    Args:
        rates: the run's peak LR at each reading, rising by equal factors; [n].
        losses: of each sweep; [sweeps, n], NaN from where it was broken off.
        every: optimizer steps that each LR was kept for, at the end of which it was read.
    """

    rates: Floats
    losses: Floats
    every: int = 1

    @property
    def steps(self) -> int:
        """Optimizer steps that all sweeps took together."""
        return self.every * int(np.sum(np.cumsum(~np.isnan(self.losses[:, ::-1]), 1)[:, ::-1] > 0))

    def write(self, path: Path) -> Path:
        """Write a row for each LR, with a column for each sweep's loss, and return the path."""
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["lr", *(f"loss_{index}" for index in range(len(self.losses)))])
        for rate, losses in zip(self.rates.tolist(), self.losses.T.tolist(), strict=True):
            table.writerow([rate, *("" if loss != loss else loss for loss in losses)])
        return write_whole(path, text.getvalue())

    @classmethod
    def read(cls, path: Path, every: int = 1) -> RangeTest:
        """What `write` wrote, which does not say `every`."""
        with path.open(newline="") as file:
            _, *rows = csv.reader(file)
        table = np.array([[float(cell or "nan") for cell in row] for row in rows])
        return cls(table[:, 0], table[:, 1:].T, every)


def sweep_plan(groups: Sequence[Group], peak: float, low: float, high: float, steps: int, every: int = 1) -> Plan:
    """The plan of one sweep: every group's LR rises by equal factors, and the ratios between groups are kept.

    A group that is to be unfrozen later trains from the start, and one with a schedule of its own rises as the others.

    Args:
        groups: as the layer rules make them.
        peak: the run's peak LR, as the config has it; which value it has does not matter.
        low: the run's peak LR at the first step.
        high: the same at the last step.
        steps: optimizer steps.
        every: steps that each LR is kept for; `steps` is a multiple.
    """
    rise = Duration(steps - every, "steps")
    rising = Schedule(Constant(), rise, warmup_start=low / high, warmup_shape="exponential", hold=every)
    scaled = [replace(group, lr=group.lr * (high / peak), schedule=None, unfreeze=None) for group in groups]
    return Plan.compile(scaled, rising, Horizon(steps))


class RangeSweep:
    """The readings of one sweep, which ends once they have diverged.

    Args:
        rates: the run's peak LR at each reading; [n].
        sign: 1 where less is better, -1 where more is.
    """

    def __init__(self, rates: Floats, sign: float = 1) -> None:
        self._rates, self._sign = rates, sign
        self._found: list[float] = []
        self._ended = False

    @property
    def readings(self) -> Floats:
        """At each LR, NaN where it was not reached; [n]."""
        readings = np.full(len(self._rates), np.nan)
        readings[: len(self._found)] = self._found
        return readings

    def add(self, readings: Iterable[float]) -> bool:
        """Add the next readings; tells whether the sweep has ended."""
        if self._ended:
            return True
        before = len(self._found) // LOOK
        self._found += readings
        # Readings come a few at a time; where the sweep ends must not depend on how many.
        for look in range(before + 1, len(self._found) // LOOK + 1):
            known = look * LOOK
            if divergence(self._rates[:known], self._sign * np.array(self._found[:known])) < known:
                self._ended = True
                del self._found[known:]
                break
        return self._ended

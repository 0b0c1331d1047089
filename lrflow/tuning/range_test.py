"""The range test: train for a while under a rising learning rate, several times over, and write the losses down."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl

from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.schedules import Constant, Duration, Horizon, Schedule
from lrflow.training import Block, Signals
from lrflow.tuning.rules import divergence

Floats = npt.NDArray[np.float64]

LOOK = 10  # steps between two looks for a divergence


@dataclass(frozen=True)
class RangeTest:
    """The losses of several sweeps over the same LRs.

    Args:
        rates: the run's peak LR at each step, rising by equal factors; [n].
        losses: of each sweep; [sweeps, n], NaN from where it was broken off.
    """

    rates: Floats
    losses: Floats

    @property
    def steps(self) -> int:
        """Optimizer steps that all sweeps took together."""
        return int(np.sum(np.cumsum(~np.isnan(self.losses[:, ::-1]), 1)[:, ::-1] > 0))

    def write(self, path: Path) -> Path:
        """Write a row for each LR, with a column for each sweep's loss, and return the path."""
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["lr", *(f"loss_{index}" for index in range(len(self.losses)))])
            for rate, losses in zip(self.rates.tolist(), self.losses.T.tolist(), strict=True):
                table.writerow([rate, *("" if loss != loss else loss for loss in losses)])
        return path


def sweep_plan(groups: Sequence[Group], peak: float, low: float, high: float, steps: int) -> Plan:
    """The plan of one sweep: every group's LR rises by equal factors, and the ratios between groups are kept.

    A group that is to be unfrozen later trains from the start, and one with a schedule of its own rises as the others.

    Args:
        groups: as the layer rules make them.
        peak: the run's peak LR, as the config has it; which value it has does not matter.
        low: the run's peak LR at the first step.
        high: the same at the last step.
        steps: optimizer steps.
    """
    rising = Schedule(Constant(), Duration(steps - 1, "steps"), warmup_start=low / high, warmup_shape="exponential")
    scaled = [replace(group, lr=group.lr * (high / peak), schedule=None, unfreeze=None) for group in groups]
    return Plan.compile(scaled, rising, Horizon(steps))


class Sweep:
    """Listens to the signals of one sweep, and ends it once the loss has diverged.

    Args:
        rates: the run's peak LR at each step; [n].
    """

    def __init__(self, rates: Floats) -> None:
        self._rates = rates
        self._losses: list[float] = []
        self._ended = False

    def callback(self, plan: Plan) -> pl.Callback:
        """What goes into the Trainer."""
        return Signals(plan, LOOK, listeners=[self._listen])

    @property
    def losses(self) -> Floats:
        """At each LR, NaN where it was not reached; [n]."""
        losses = np.full(len(self._rates), np.nan)
        losses[: len(self._losses)] = self._losses
        return losses

    def _listen(self, trainer: pl.Trainer, block: Block) -> None:
        if self._ended:
            return
        before = len(self._losses) // LOOK
        self._losses += block.loss.tolist()
        # Blocks come whenever they are read; where the sweep ends must not depend on the clock.
        for look in range(before + 1, len(self._losses) // LOOK + 1):
            known = look * LOOK
            if divergence(self._rates[:known], np.array(self._losses[:known])) < known:
                self._ended = trainer.should_stop = True
                del self._losses[known:]
                return

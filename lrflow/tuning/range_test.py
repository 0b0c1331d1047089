"""The range test: train for a while under a rising learning rate, several times over, and write down what is read.

What a sweep reads and when: the training loss, a metric of validation, or one that the module logs.

The sweeps of a range test: how long they are, what they start from, and what they read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow import assemble
from lrflow.config import Config, locate
from lrflow.config.find_schema import RangeFind
from lrflow.config.targets import optimizer_traits
from lrflow.errors import ConfigError, Problem
from lrflow.files import write_whole
from lrflow.layers import Group
from lrflow.memory import freed_after
from lrflow.metric import TRAIN_LOSS, is_validation
from lrflow.plan import Plan
from lrflow.runs import find_checkpoint
from lrflow.schedules import Constant, Duration, Horizon, Schedule
from lrflow.training import Block, Signals
from lrflow.training.metrics import ReadingTimes, logged_metric
from lrflow.training.monitor import Monitor
from lrflow.training.resume import Resumed
from lrflow.training.trainer import SHORT_RUN_DONE
from lrflow.tuning.short_runs import short_fit, whole_horizon
from lrflow.tuning.suggestion import divergence

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


KEY = "find.monitor"


def readers(sweep: RangeSweep, monitor: str, every: int, plan: Plan) -> list[pl.Callback]:
    """What hands a metric of a training to a sweep, and stops the training where the sweep ends.

    Args:
        sweep: is given a reading each `every` steps.
        monitor: `train/loss`, a metric of validation (`val/...`; the Trainer has to validate each `every` steps), or
            one that the module logs in training.
        every: optimizer steps between two readings.
        plan: of the sweep.
    """
    if monitor == TRAIN_LOSS:
        return [Signals(plan, LOOK * every), _MeanLosses(sweep, every)]
    return [(_AfterValidation if is_validation(monitor) else _BetweenSteps)(sweep, monitor, every)]


def _hand_over(readings: list[float], sweep: RangeSweep, trainer: pl.Trainer) -> None:
    if sweep.add(readings):
        trainer.stop(SHORT_RUN_DONE)  # type: ignore[attr-defined]


class _MeanLosses(Monitor):
    """Reads the signals; a reading is the mean training loss of `every` steps.

    A skipped step has the loss of the step before it, and the first ones that of the first step that has one: a sweep
    reads a loss at each LR.
    """

    def __init__(self, sweep: RangeSweep, every: int) -> None:
        self._sweep, self._every = sweep, every
        self._losses = np.empty(0)
        self._lacking = 0
        self._last: float | None = None

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        self._losses = np.append(self._losses, self._filled(block))
        whole = len(self._losses) // self._every * self._every
        readings, self._losses = self._losses[:whole].reshape(-1, self._every).mean(1), self._losses[whole:]
        _hand_over(readings.tolist(), self._sweep, trainer)

    def _filled(self, block: Block) -> np.ndarray:
        """The losses of a block and of the skipped steps before it that had none to take."""
        losses: list[float] = []
        for loss, skipped in zip(block.loss.tolist(), block.skipped.tolist(), strict=True):
            if not skipped:
                losses += [loss] * (self._lacking + 1)
                self._lacking, self._last = 0, loss
            elif self._last is None:
                self._lacking += 1
            else:
                losses.append(self._last)
        return np.array(losses)


class _Reader(Callback):
    """Reads a metric of Lightning's."""

    def __init__(self, sweep: RangeSweep, monitor: str, every: int) -> None:
        self._sweep, self._monitor, self._every = sweep, monitor, every

    def _read(self, trainer: pl.Trainer, hint: str | None = None) -> None:
        _hand_over([logged_metric(trainer, self._monitor, hint, KEY)], self._sweep, trainer)


class _AfterValidation(_Reader):
    """Reads after each validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See that there is something to validate.

        Raises:
            ConfigError: there is not.
        """
        if not sum(trainer.num_val_batches):
            raise ConfigError([Problem(KEY, "the run has no validation", self._monitor, "give data.val_size")])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read."""
        self._read(trainer)


class _BetweenSteps(_Reader):
    """Reads each `every` steps."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        self._times = ReadingTimes(self._every)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read where it is time."""
        if self._times.after_batch(trainer):
            self._read(trainer, "a metric that is logged at an epoch's end needs find.every='1 epoch'")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read what waited for the end of the epoch."""
        if self._times.after_epoch():
            self._read(trainer)


def run_sweeps(
    config: Config, find: RangeFind, folder: Path, each: Callable[[Iterable[int]], Iterable[int]] = iter
) -> RangeTest:
    """Run all sweeps.

    Args:
        config: of the run.
        find: the range, and what is read.
        folder: of the run; nothing is written there.
        each: goes through the seeds, and may show how far it is.

    Raises:
        ConfigError: the sweeps are too short to be read, or the checkpoint that they start from does not fit.
        LrflowError: the checkpoint is of another model, or nothing logs the metric.
        EndedEarlyError: something else than a sweep's readings ended it.
    """
    start = _start(config) if config.task.name == "find" else None
    whole = Horizon(1) if find.in_steps and start is None else whole_horizon(config, folder)
    points, every = find.sweep_length(whole)
    if start:
        _check_position(config, find, start, whole)
    rates = np.geomspace(find.low, find.high, points)
    seeds = range(config.seed, config.seed + find.sweep_count)
    readings = [_sweep(config, find, rates, every, seed, folder, start) for seed in each(seeds)]
    return RangeTest(rates, np.array(readings), every)


def _start(config: Config) -> Resumed | None:
    """The checkpoint that every sweep starts from; None: each has a new model."""
    if config.resume.source is None:
        return None
    start = Resumed.read(find_checkpoint(config.resume.source, Path(config.output), "resume.from"), locate)
    start.check_config(assemble.plain_config(config), optimizer_traits)
    return start


def _check_position(config: Config, find: RangeFind, start: Resumed, whole: Horizon) -> None:
    """See that the place of the checkpoint in the data is one that the sweeps can start from."""
    start.horizon(whole, None, whole.steps, config.trainer.accumulate_grad_batches)
    if start.position.batch and find.reading_interval.unit == "epochs":
        message = f"stands within an epoch, and {find.monitor} is read at the ends of epochs"
        hint = "take a checkpoint of an epoch's end (trainer.checkpoint.every='1 epoch')"
        raise ConfigError([Problem("resume.from", message, str(start.path), hint)])


@freed_after()
def _sweep(
    config: Config,
    find: RangeFind,
    rates: npt.NDArray[np.float64],
    every: int,
    seed: int,
    folder: Path,
    start: Resumed | None,
) -> npt.NDArray[np.float64]:
    """The readings of one sweep: of a new model or one that goes on, on data in an order of its own; [n]."""
    sweep = RangeSweep(rates, find.metric.sign)
    steps = len(rates) * every
    short_fit(
        config,
        seed,
        steps,
        folder,
        lambda groups: sweep_plan(groups, config.optimizer.lr, find.low, find.high, steps, every),
        lambda _, __, plan: readers(sweep, find.monitor, every, plan),
        val_every=every if is_validation(find.monitor) else None,
        start=start,
    )
    return sweep.readings

"""The LR range test: short runs ("sweeps") under a rising LR that read the loss or another metric at each LR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow import assemble
from lrflow.config import Config, locate
from lrflow.config.schemas.find import RangeFind
from lrflow.config.targets import optimizer_traits
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Group
from lrflow.memory import freed_after
from lrflow.metric import TRAIN_LOSS, is_validation
from lrflow.plan import Plan
from lrflow.schedules import Constant, Duration, Horizon, Schedule
from lrflow.schedules.time import Floats
from lrflow.training import Block, Signals
from lrflow.training.metric_reading import ReadingTimes, logged_metric
from lrflow.training.monitor import Monitor
from lrflow.training.resume import Resumed
from lrflow.training.resume_source import read_resumed
from lrflow.training.trainer import SHORT_RUN_DONE
from lrflow.tuning.find_record import RangeTest
from lrflow.tuning.short_runs import short_fit, whole_horizon
from lrflow.tuning.suggestion import divergence

CHECK_EVERY = 10  # readings between two checks for a divergence
KEY = "find.monitor"


def run_sweeps(
    config: Config, find: RangeFind, folder: Path, track: Callable[[Iterable[int]], Iterable[int]] = iter
) -> RangeTest:
    """Run all sweeps.

    Args:
        config: of the run.
        find: the range of LRs and the metric.
        folder: of the run; nothing is written there.
        track: yields the seeds that it is given; may show a progress bar.

    Raises:
        ConfigError: the sweeps are too short, or the checkpoint that they start from does not fit.
        LrflowError: the checkpoint is of another model, or nothing logs the metric.
        EndedEarlyError: a sweep ended before its last step, by something other than a divergence.
    """
    start = _starting_checkpoint(config) if config.task.name == "find" else None
    whole = Horizon(1) if find.in_steps and start is None else whole_horizon(config, folder)
    points, every = find.sweep_length(whole)
    if start:
        _check_position(config, find, start, whole)
    rates = np.geomspace(find.low, find.high, points)
    seeds = range(config.seed, config.seed + find.sweep_count)
    readings = [_sweep(config, find, rates, every, seed, folder, start) for seed in track(seeds)]
    return RangeTest(rates, np.array(readings), every)


def _starting_checkpoint(config: Config) -> Resumed | None:
    """Return the checkpoint that every sweep starts from; None: each sweep has a new model."""
    if config.resume.source is None:
        return None
    start = read_resumed(config.resume.source, Path(config.output), locate)
    start.check_config(assemble.plain_config(config), optimizer_traits)
    return start


def _check_position(config: Config, find: RangeFind, start: Resumed, whole: Horizon) -> None:
    """Check that the sweeps can start from the checkpoint's position in the data."""
    start.horizon(whole, None, whole.steps, config.trainer.accumulate_grad_batches)
    if start.position.batch and find.reading_interval.unit == "epochs":
        message = f"the checkpoint is from within an epoch, but {find.monitor} is read at the ends of epochs"
        hint = "use a checkpoint from the end of an epoch (trainer.checkpoint.every='1 epoch')"
        raise ConfigError([Problem("resume.from", message, str(start.path), hint)])


@freed_after()
def _sweep(
    config: Config,
    find: RangeFind,
    rates: Floats,
    every: int,
    seed: int,
    folder: Path,
    start: Resumed | None,
) -> Floats:
    """Run one sweep, with its own order of the data, and return its readings; [n]."""
    sweep = RangeSweep(rates, find.metric.sign)
    steps = len(rates) * every
    short_fit(
        config,
        seed,
        steps,
        folder,
        lambda groups: sweep_plan(groups, config.optimizer.lr, find.low, find.high, steps, every),
        lambda _, __, plan: _reading_callbacks(sweep, find.monitor, every, plan),
        val_every=every if is_validation(find.monitor) else None,
        start=start,
    )
    return sweep.readings


def sweep_plan(groups: Sequence[Group], peak: float, low: float, high: float, steps: int, every: int = 1) -> Plan:
    """Return the plan of one sweep: the LR of every group rises by equal factors, at constant ratios between groups.

    A group that is frozen for a part of the run trains throughout, and the LR of one with its own schedule rises too.

    Args:
        groups: as the layer rules make them.
        peak: the configured peak LR, to which the LRs of the groups refer.
        low: the run's peak LR at the first step.
        high: the run's peak LR at the last step.
        steps: optimizer steps; a multiple of `every`.
        every: optimizer steps per LR.
    """
    rise = Duration(steps - every, "steps")
    rising = Schedule(Constant(), rise, warmup_start=low / high, warmup_shape="exponential", hold=every)
    scaled = [
        replace(group, lr=group.lr * (high / peak), schedule=None, unfreeze=None, freeze_after=None) for group in groups
    ]
    return Plan.compile(scaled, rising, Horizon(steps))


class RangeSweep:
    """The readings of one sweep, which ends when they diverge.

    Args:
        rates: the run's peak LR at each reading; [n].
        sign: 1 if lower is better, -1 if higher is.
    """

    def __init__(self, rates: Floats, sign: float = 1) -> None:
        self._rates, self._sign = rates, sign
        self._values: list[float] = []
        self._ended = False

    @property
    def readings(self) -> Floats:
        """One per LR, NaN after the end of the sweep; [n]."""
        readings = np.full(len(self._rates), np.nan)
        readings[: len(self._values)] = self._values
        return readings

    def add(self, readings: Iterable[float]) -> bool:
        """Add the next readings, and return whether the sweep has ended."""
        if self._ended:
            return True
        checked = len(self._values) // CHECK_EVERY
        self._values += readings
        # Readings are added in chunks; the end of the sweep must not depend on the size of the chunks.
        for check in range(checked + 1, len(self._values) // CHECK_EVERY + 1):
            count = check * CHECK_EVERY
            if divergence(self._rates[:count], self._sign * np.array(self._values[:count])) < count:
                self._ended = True
                del self._values[count:]
                break
        return self._ended


def _reading_callbacks(sweep: RangeSweep, monitor: str, every: int, plan: Plan) -> list[pl.Callback]:
    """Return callbacks that add a metric to a sweep, and stop the training when the sweep ends.

    Args:
        sweep: receives one reading per `every` steps.
        monitor: `train/loss`, a validation metric (`val/...`; the Trainer must validate every `every` steps), or a
            metric that the module logs in training.
        every: optimizer steps between two readings.
        plan: of the sweep.
    """
    if monitor == TRAIN_LOSS:
        return [Signals(plan, CHECK_EVERY * every), _TrainingLossReader(sweep, every)]
    return [(_ValidationReader if is_validation(monitor) else _StepReader)(sweep, monitor, every)]


def _add_readings(readings: list[float], sweep: RangeSweep, trainer: pl.Trainer) -> None:
    if sweep.add(readings):
        trainer.stop(SHORT_RUN_DONE)  # type: ignore[attr-defined]


class _TrainingLossReader(Monitor):
    """Reads the mean training loss of every `every` steps.

    A skipped step counts with the loss of the step before it. Skipped steps at the start count with the first loss, so
    that there is a loss for each LR.
    """

    def __init__(self, sweep: RangeSweep, every: int) -> None:
        self._sweep, self._every = sweep, every
        self._losses = np.empty(0)
        self._missing = 0
        self._last: float | None = None

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        self._losses = np.append(self._losses, self._filled(block))
        whole = len(self._losses) // self._every * self._every
        readings, self._losses = self._losses[:whole].reshape(-1, self._every).mean(1), self._losses[whole:]
        _add_readings(readings.tolist(), self._sweep, trainer)

    def _filled(self, block: Block) -> np.ndarray:
        """Return the losses of a block, with values for its skipped steps and for those at the start of the run."""
        losses: list[float] = []
        for loss, skipped in zip(block.loss.tolist(), block.skipped.tolist(), strict=True):
            if not skipped:
                losses += [loss] * (self._missing + 1)
                self._missing, self._last = 0, loss
            elif self._last is None:
                self._missing += 1
            else:
                losses.append(self._last)
        return np.array(losses)


class _MetricReader(Callback):
    """Reads a metric that Lightning has logged."""

    def __init__(self, sweep: RangeSweep, monitor: str, every: int) -> None:
        self._sweep, self._monitor, self._every = sweep, monitor, every

    def _read(self, trainer: pl.Trainer, hint: str | None = None) -> None:
        _add_readings([logged_metric(trainer, self._monitor, hint, KEY)], self._sweep, trainer)


class _ValidationReader(_MetricReader):
    """Reads the metric after each validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the run has a validation.

        Raises:
            ConfigError: it has none.
        """
        if not sum(trainer.num_val_batches):
            raise ConfigError([Problem(KEY, "the run has no validation", self._monitor, "give data.val_size")])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the metric."""
        self._read(trainer)


class _StepReader(_MetricReader):
    """Reads the metric every `every` optimizer steps."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting steps."""
        self._times = ReadingTimes(self._every)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the metric if a reading is due."""
        if self._times.after_batch(trainer):
            self._read(trainer, "a metric that is logged at an epoch's end needs find.every='1 epoch'")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the metric if a reading was due at the last batch."""
        if self._times.after_epoch():
            self._read(trainer)

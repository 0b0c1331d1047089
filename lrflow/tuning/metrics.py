"""What a sweep reads and when: the training loss, a metric of validation, or one that the module logs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.errors import ConfigError, Problem
from lrflow.metric import TRAIN_LOSS, is_validation
from lrflow.plan import Plan
from lrflow.training import Block, Signals
from lrflow.training.metrics import ReadingTimes, logged_metric
from lrflow.training.monitor import Monitor
from lrflow.training.trainer import SEEN_ENOUGH
from lrflow.tuning.range_test import LOOK, RangeSweep

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
        trainer.stop(SEEN_ENOUGH)  # type: ignore[attr-defined]


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

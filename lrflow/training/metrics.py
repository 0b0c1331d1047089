"""Reading the metrics of a run while it trains: which there are, and when they are there.

When a run validates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lrflow.errors import LrflowError, Problem, did_you_mean
from lrflow.metric import TRAIN_LOSS, is_validation
from lrflow.schedules import Duration, Horizon


class MeanLoss:
    """The mean training loss over the batches since it was last reset, gathered without making the device wait.

    Args:
        device: of the losses.
        dtype: of their sum.
        total: the sum to begin with, of the losses as Lightning hands them over.
        batches: how many batches it is of.
    """

    def __init__(
        self,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        total: float = 0.0,
        batches: int = 0,
    ) -> None:
        self._total = torch.full((), total, dtype=dtype or torch.get_default_dtype(), device=device)
        self._batches = batches

    def add(self, outputs: Any) -> None:
        """Count in a batch, as `on_train_batch_end` is given its outputs; Lightning skips one whose step gave None."""
        if outputs:
            self._total += outputs["loss"].detach()
            self._batches += 1

    @property
    def skipped(self) -> bool:
        """Whether there is no loss to speak of: there was no batch, or all of them were skipped."""
        return not self._batches

    def mean(self, trainer: pl.Trainer) -> Tensor:
        """The mean on this device, a scalar; 0 where all batches were skipped."""
        # Lightning hands over each loss divided by the batches of a full window, whatever its own window has.
        return self._total * trainer.accumulate_grad_batches / max(self._batches, 1)

    def reduce(self) -> None:
        """Count in the batches of all devices."""
        sums = torch.stack([self._total, torch.full_like(self._total, self._batches)])
        torch.distributed.all_reduce(sums)
        self._total, self._batches = sums[0], int(sums[1])

    def reset(self) -> None:
        """Begin anew."""
        self._total.zero_()
        self._batches = 0

    def sums(self) -> list[float]:
        """The sum so far and the batches that it is of, to begin another one with."""
        return [float(self._total), float(self._batches)]


def logged_metric(trainer: pl.Trainer, name: str, hint: str | None = None, key: str = "feedback.monitor") -> float:
    """A metric that the module logged, as the first process has it: others may have another value, or none.

    Args:
        trainer: of the run.
        name: the metric.
        hint: what else may help where there is no such metric, besides the nearest name.
        key: of the config that asks for it.

    Raises:
        LrflowError: there is no such metric; names those that there are.
    """
    found = trainer.callback_metrics.get(name)
    value: float | None = trainer.strategy.broadcast(None if found is None else float(found))
    if value is None:
        known = sorted({*trainer.callback_metrics, TRAIN_LOSS})
        hint = "\n    ".join(filter(None, (did_you_mean(name, known), hint)))
        message = f"there is no such metric at step {trainer.global_step}: there are {', '.join(known)}"
        raise LrflowError(str(Problem(key, message, name, hint)))
    return value


def progress_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """The metrics that a person wants to see: those that the last validation logged, and those with `prog_bar=True`.

    A loop that is not Lightning's leaves no record of what a validation logged: there it is told by the names.
    """
    validation = trainer.fit_loop.epoch_loop.val_loop._results.metrics(on_step=False)["callback"]
    metrics = trainer.callback_metrics
    known = {name: float(metrics[name]) for name in metrics if name in validation or is_validation(name)}
    return known | trainer.progress_bar_metrics


class ReadingTimes:
    """When a metric of training is read: each `every` optimizer steps.

    Where that is an epoch's last step it waits for the epoch's end, when Lightning knows the epoch's means.

    Args:
        every: optimizer steps.
        step: those that are over.
    """

    def __init__(self, every: int, step: int = 0) -> None:
        self._every, self._step, self._waits = every, step, False

    def after_batch(self, trainer: pl.Trainer) -> bool:
        """Whether to read now, at the end of a batch."""
        step = trainer.global_step
        if step == self._step:  # gradients are accumulated: no step was made
            return False
        self._step = step
        if step % self._every:
            return False
        self._waits = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or step == trainer.max_steps
        return not self._waits

    def after_epoch(self) -> bool:
        """Whether to read now, at the end of an epoch."""
        waited, self._waits = self._waits, False
        return waited


@dataclass(frozen=True)
class ValidationTimes:
    """When a run validates before its end; one of these is given.

    Args:
        epochs: at the end of every so many epochs, as long as the data make them.
        share: after every such share of an epoch's batches.
        steps: after every so many optimizer steps, over all of the run.
    """

    epochs: int | None = None
    share: float | None = None
    steps: int | None = None

    @classmethod
    def of(cls, every: Duration, horizon: Horizon) -> ValidationTimes:
        """Whole epochs, a share of one, or what else in steps: shares of the run, and one and a half epochs."""
        if every.whole_epochs:
            return cls(epochs=every.whole_epochs)
        if every.unit == "epochs" and every.value < 1:
            return cls(share=float(every.value))
        return cls(steps=max(1, every.steps(horizon)))

    def after_epoch(self, epochs: int) -> bool:
        """Whether it does so at the end of an epoch.

        Args:
            epochs: that are over.
        """
        return self.epochs is not None and epochs % self.epochs == 0

    def after_batch(self, batch: int, batches: int, steps: int | None) -> bool:
        """Whether it does so after a batch, wherever in an epoch that is.

        Args:
            batch: its number in the epoch, from 1.
            batches: of the epoch.
            steps: of the run that are made; None: the batch made none.
        """
        if self.share is not None:
            return batch % max(1, int(batches * self.share)) == 0
        return self.steps is not None and steps is not None and steps % self.steps == 0

"""Reading metrics during a run, averaging the training loss on the device, and when to read and to validate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lrflow.errors import Problem, SettingError, did_you_mean
from lrflow.metric import TRAIN_LOSS, is_validation
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.time import Periods


class MeanLoss:
    """The mean training loss over the batches since the last reset, collected without a device synchronization.

    Args:
        device: device of the losses.
        dtype: dtype of their sum.
        total: initial sum of the losses, as Lightning passes them to callbacks.
        batches: number of batches in the initial sum.
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

    def add(self, outputs: Any, times: int = 1) -> None:
        """Add a batch.

        Args:
            outputs: of `on_train_batch_end`; empty if the training step returned None.
            times: factor on its loss, where the batches that are averaged are not all divided by the same number.
        """
        if outputs and "loss" in outputs:
            loss = outputs["loss"].detach()
            self._total += loss if times == 1 else loss * times
            self._batches += 1

    @property
    def skipped(self) -> bool:
        """Whether there is no loss: there was no batch, or all batches were skipped."""
        return not self._batches

    def mean(self, divided: int) -> Tensor:
        """Return the mean on this device, a scalar; 0 if all batches were skipped.

        Args:
            divided: number by which the losses were divided: batches of a full window.
        """
        # Lightning divides each loss by the number of batches of a full window, also in a short window.
        return self._total * divided / max(self._batches, 1)

    def reduce(self) -> None:
        """Add the batches of all other devices."""
        sums = torch.stack([self._total, torch.full_like(self._total, self._batches)])
        torch.distributed.all_reduce(sums)
        self._total, self._batches = sums[0], int(sums[1])

    def reset(self) -> None:
        """Start again from zero."""
        self._total.zero_()
        self._batches = 0

    def sums(self) -> list[float]:
        """Return the sum so far and its number of batches: the initial values for another `MeanLoss`."""
        return [float(self._total), float(self._batches)]


def logged_metric(trainer: pl.Trainer, name: str, hint: str | None = None, key: str = "feedback.monitor") -> float:
    """Return a metric that the module logged, with the value of the first process on all of them.

    Args:
        trainer: trainer of the run.
        name: name of the metric.
        hint: added to the error message besides the nearest name.
        key: config key that names the metric.

    Raises:
        SettingError: there is no such metric; lists the existing ones.
    """
    logged = trainer.callback_metrics.get(name)
    value: float | None = trainer.strategy.broadcast(None if logged is None else float(logged))
    if value is None:
        known = sorted({*trainer.callback_metrics, TRAIN_LOSS})
        hint = "\n    ".join(filter(None, (did_you_mean(name, known), hint)))
        message = f"no such metric at step {trainer.global_step}; the metrics are {', '.join(known)}"
        raise SettingError(str(Problem(key, message, name, hint)))
    return value


def progress_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """Return the metrics for progress output: those of the last validation, and those logged with `prog_bar=True`.

    Training loops other than Lightning's do not record what a validation logged; there the names decide.
    """
    validation = trainer.fit_loop.epoch_loop.val_loop._results.metrics(on_step=False)["callback"]
    metrics = trainer.callback_metrics
    validated = {name: float(metrics[name]) for name in metrics if name in validation or is_validation(name)}
    return validated | trainer.progress_bar_metrics


def window_mean(losses: Sequence[Tensor], accumulate: int) -> Tensor:
    """Return the mean loss of an accumulation window on this device.

    Args:
        losses: of its batches, each divided by `accumulate`, as Lightning does also in a short window; at least one.
        accumulate: the batches of a full window.
    """
    if accumulate == 1 == len(losses):
        return losses[0]
    total = losses[0].to(torch.get_default_dtype())
    for loss in losses[1:]:
        total = total + loss
    return total * accumulate / len(losses)


class ReadingTimes:
    """When to read a training metric: every `every` optimizer steps.

    A reading at an epoch's last step waits for the end of the epoch, when Lightning has computed the epoch's means.

    Args:
        every: number of optimizer steps between two readings.
        step: number of optimizer steps done.
    """

    def __init__(self, every: int, step: int = 0) -> None:
        self._every, self._step, self._waits = every, step, False

    def after_batch(self, trainer: pl.Trainer) -> bool:
        """Whether to read now, at the end of a batch."""
        step = trainer.global_step
        if step == self._step:  # within an accumulation window
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
    """When a run validates before its end; exactly one field is set.

    Args:
        epochs: number of real epochs of the data between two validations.
        share: share of an epoch's batches between two validations.
        steps: number of optimizer steps between two validations, counted over the whole run.
        periods: time between two validations of a run whose batch changes.
    """

    epochs: int | None = None
    share: float | None = None
    steps: int | None = None
    periods: Periods | None = None

    @classmethod
    def of(cls, every: Duration, horizon: Horizon) -> ValidationTimes:
        """Convert a duration: whole epochs, a share of an epoch, or steps (shares of the run, 1.5 epochs)."""
        if every.whole_epochs:
            return cls(epochs=every.whole_epochs)
        if every.unit == "epochs" and every.value < 1:
            return cls(share=float(every.value))
        if horizon.batch is not None:
            return cls(periods=Periods(every, horizon))
        return cls(steps=max(1, every.steps(horizon)))

    def after_epoch(self, epochs: int) -> bool:
        """Whether to validate at the end of an epoch.

        Args:
            epochs: number of epochs done.
        """
        return self.epochs is not None and epochs % self.epochs == 0

    def after_batch(self, batch: int, batches: int, steps: int | None) -> bool:
        """Whether to validate after a batch, at any position in an epoch.

        Args:
            batch: its number in the epoch, from 1.
            batches: number of batches per epoch.
            steps: number of steps done in the run; None if the batch made no step.
        """
        if self.share is not None:
            return batch % max(1, int(batches * self.share)) == 0
        if self.periods is not None:
            return steps is not None and self.periods.end_with(steps)
        return self.steps is not None and steps is not None and steps % self.steps == 0

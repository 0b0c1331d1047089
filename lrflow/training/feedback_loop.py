"""Callbacks that feed measurements of the run to the feedback, and apply its factor to the LR."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from lrflow.errors import LrflowError
from lrflow.feedback import FORMER_NAMES, Feedback, MetricFeedback, StepFeedback
from lrflow.feedback.feedback import widest_float
from lrflow.metric import TRAIN_LOSS
from lrflow.plan import PlanScheduler
from lrflow.schedules import Horizon
from lrflow.training.metric_reading import MeanLoss, ReadingTimes, logged_metric

log = logging.getLogger("lrflow")

MAX_HISTORY = 1000  # changes of the factor that are kept


class FeedbackLoop(Callback):
    """Applies a feedback to a run: writes its factor into the scheduler, reports changes, saves and restores its state.

    Readings are counted in steps and validations, never in time, and the first process decides for all. The callback
    has to come before those that record the LR of a step and those that save.

    Args:
        feedback: the feedback that adapts the LR.
        horizon: converts durations into steps.
        report: is called with one line per message to the user.

    Attributes:
        history: the reported changes, newest last: `step` (the first with the new factor), `value` (the measurement)
            and `factor`.
    """

    def __init__(self, feedback: Feedback, horizon: Horizon, report: Callable[[str], None] = log.info) -> None:
        self.feedback = feedback
        self.history: list[dict[str, float]] = []
        self._horizon, self._report = horizon, report
        self._reported = 1.0  # the factor of the last reported change
        self._has_read = self._warned = False
        self._scheduler: PlanScheduler

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the factor, which may be that of a resumed run."""
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        self._scheduler = scheduler
        self._scheduler.feedback = self.feedback.factor

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of the feedback, and the subject that it was collected for."""
        checkpoint["feedback"] = {
            "kind": type(self.feedback).__name__,
            "subject": self.feedback.subject,
            "factor": self.feedback.factor,
            "state": self.feedback.state_dict(),
            "told": self._reported,
            "looked": self._has_read,
            "history": list(self.history),
            **self._own_state(trainer),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the saved state as far as it fits the current configuration."""
        saved = checkpoint.get("feedback")
        if saved is None or trainer.state.fn != "fit":
            return
        self.history[:] = saved["history"]
        kind, factor = type(self.feedback).__name__, saved["factor"]
        if FORMER_NAMES.get(saved["kind"], saved["kind"]) != kind:
            self._report(dropped_message(saved))
            return
        self._reported, self._has_read = saved["told"], saved["looked"]
        if saved["subject"] == self.feedback.subject:
            self.feedback.load_state_dict(saved["state"])
            self._load_own_state(saved, trainer)
        else:
            self.feedback.set(factor)
            self._report(
                f"feedback: it read {saved['subject']} and reads {self.feedback.subject} now: "
                f"its state is dropped, its factor of {factor:.4g} is kept"
            )
        if self.feedback.factor != factor:
            self._report(
                f"feedback: its factor was {factor:.4g} and is {self.feedback.factor:.4g}, within the current bounds"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if the feedback never had a reading."""
        if not self._has_read:
            log.warning("feedback: it never acted, because the run ended before its first reading")

    def _own_state(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Return the state that the loop itself has collected."""
        return {}

    def _load_own_state(self, saved: Mapping[str, Any], trainer: pl.Trainer) -> None:
        """Restore what `_own_state` returned."""

    def _act(self, trainer: pl.Trainer, value: float, what: str) -> None:
        """Apply the factor after a reading, and report it if it changed."""
        factor = self.feedback.factor
        self._scheduler.feedback = factor
        self._has_read = True
        if not math.isfinite(value) and not self._warned:
            self._warned = True
            log.warning("feedback: step %d, %s is %s: %s", trainer.global_step, what, value, self.feedback.nonfinite)
        ratio = max(factor / self._reported, self._reported / factor)
        if ratio == 1.0 or ratio < self.feedback.log_ratio:
            return
        rates = sorted({float(rate) for rate in self._scheduler.get_lr()})
        lr = f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g}..{rates[-1]:.3g}"
        change = f"factor {self._reported:.4g} -> {factor:.4g}, LR {lr}"
        self._report(f"feedback: step {trainer.global_step}, {what} {value:.4g}: {change}")
        self.history.append({"step": trainer.global_step, "value": value, "factor": factor})
        del self.history[:-MAX_HISTORY]
        self._reported = factor


class AfterValidation(FeedbackLoop):
    """Reads a validation metric after each validation."""

    feedback: MetricFeedback

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the metric, except after a sanity check."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            value = logged_metric(trainer, self.feedback.monitor)
            self.feedback.update(value)
            self._act(trainer, value, self.feedback.monitor)


class BetweenSteps(FeedbackLoop):
    """Reads a training metric at regular steps; the training loss is averaged here, on the device."""

    feedback: MetricFeedback
    _saved_sums: list[list[float]] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count steps and to collect the training loss."""
        super().on_train_start(trainer, pl_module)
        self._times = ReadingTimes(self.feedback.interval(self._horizon), trainer.global_step)
        self._collects_loss = self.feedback.monitor == TRAIN_LOSS
        total, batches = [0.0, 0] if self._saved_sums is None else _share(self._saved_sums, trainer)
        self._loss = MeanLoss(pl_module.device, widest_float(pl_module.device), total, int(batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the loss, and read the metric if it is due."""
        if self._collects_loss:
            varies = trainer.batch_unit is not None  # type: ignore[attr-defined]
            self._loss.add(outputs, trainer.accumulate_grad_batches if varies else 1)
        if self._times.after_batch(trainer):
            self._read(trainer, "a metric that is logged at an epoch's end needs feedback.every='1 epoch'")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read a metric that waited for the end of the epoch."""
        if self._times.after_epoch():
            self._read(trainer)

    def _read(self, trainer: pl.Trainer, hint: str | None = None) -> None:
        value = self._mean_loss(trainer) if self._collects_loss else logged_metric(trainer, self.feedback.monitor, hint)
        if value is not None:
            self.feedback.update(value)
            self._act(trainer, value, self.feedback.monitor)

    def _mean_loss(self, trainer: pl.Trainer) -> float | None:
        """Return the mean loss since the last reading, over all devices; None if every batch was skipped."""
        if trainer.world_size > 1:
            self._loss.reduce()
        varies = trainer.batch_unit is not None  # type: ignore[attr-defined]
        value = None if self._loss.skipped else float(self._loss.mean(1 if varies else trainer.accumulate_grad_batches))
        self._loss.reset()
        return value

    def _own_state(self, trainer: pl.Trainer) -> dict[str, Any]:
        sums: list[Any] = [self._loss.sums()]
        if trainer.world_size > 1:
            sums = [None] * trainer.world_size
            torch.distributed.all_gather_object(sums, self._loss.sums())
        return {"sums": sums}

    def _load_own_state(self, saved: Mapping[str, Any], trainer: pl.Trainer) -> None:
        self._saved_sums = saved["sums"]


class BeforeSteps(FeedbackLoop):
    """Passes the weights and gradients of each step to a feedback, just before the step."""

    feedback: StepFeedback
    _step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pass the weights to the feedback.

        Raises:
            LrflowError: the strategy shards the weights.
        """
        super().on_train_start(trainer, pl_module)
        self._step = -1
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = type(self.feedback).__name__.lower()
            raise LrflowError(f"feedback={name} needs whole weights, and {trainer.strategy} divides them")
        trained = {parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
        # In the order of the model, because the order of the groups changes with the layer rules.
        parameters = [parameter for parameter in pl_module.parameters() if parameter in trained]
        try:
            self.feedback.watch(parameters, self._horizon)
        except ValueError as error:
            raise LrflowError(f"the state of the feedback cannot be resumed: {error}") from error

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Pass the step to the feedback, and apply a new factor to this step already."""
        if trainer.global_step == self._step:
            return  # a line search evaluates the batch again
        self._step = trainer.global_step
        value = self.feedback.observe(float(self._scheduler.get_lr()[0]))
        if value is not None:
            if trainer.world_size > 1:
                self.feedback.set(trainer.strategy.broadcast(self.feedback.factor))
            self._act(trainer, value, "measured")


def make_feedback_loop(feedback: Feedback, horizon: Horizon, report: Callable[[str], None] = log.info) -> FeedbackLoop:
    """Return the callback for a feedback.

    Raises:
        ConfigError: the interval of its readings cannot be counted in steps of this run.
    """
    if isinstance(feedback, MetricFeedback):
        if feedback.after_validation:
            return AfterValidation(feedback, horizon, report)
        feedback.interval(horizon)
        return BetweenSteps(feedback, horizon, report)
    feedback.interval(horizon)
    return BeforeSteps(feedback, horizon, report)


def dropped_message(saved: Mapping[str, Any]) -> str:
    """Return the message for a run that resumes without the feedback whose state is in the checkpoint."""
    return (
        f"feedback: the run had {saved['kind']} at factor {saved['factor']:.4g}; its state is dropped, "
        "and the LR continues from the planned one"
    )


def _share(sums: list[list[float]], trainer: pl.Trainer) -> list[float]:
    """Return the part of the saved sums for this process; if the number of processes changed, the first takes all."""
    if len(sums) == trainer.world_size:
        return sums[trainer.global_rank]
    return [sum(column) for column in zip(*sums, strict=True)] if trainer.is_global_zero else [0.0, 0.0]

"""The loop that feedback closes: what the run measures moves a factor, and the factor the LR."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from lrflow.errors import LrflowError
from lrflow.feedback import FORMER_NAMES, Feedback, MetricFeedback, StepFeedback
from lrflow.feedback.base import widest_float
from lrflow.metric import TRAIN_LOSS
from lrflow.plan import PlanScheduler
from lrflow.schedules import Horizon
from lrflow.training.metrics import MeanLoss, ReadingTimes, logged_metric

log = logging.getLogger("lrflow")

MAX_HISTORY = 1000  # changes of the factor
Acting = TypeVar("Acting", bound=Feedback)


class FeedbackLoop(Callback):
    """Lets a feedback act on a run: writes its factor into the scheduler, tells each change, saves and resumes it.

    When it looks is counted in steps and validations, never in time, and the first process decides for all of them.
    It has to stand before the callbacks that note the LR of a step and that save.

    Args:
        feedback: what acts.
        horizon: turns durations into steps.
        say: tells a person, one line at a time.

    Attributes:
        history: the changes that were told, newest last: `step` (the first with the new factor), `value` (what was
            measured) and `factor`.
    """

    def __init__(self, feedback: Feedback, horizon: Horizon, say: Callable[[str], None] = log.info) -> None:
        self.feedback = feedback
        self.history: list[dict[str, float]] = []
        self._horizon, self._say = horizon, say
        self._told = 1.0
        self._looked = self._warned = False
        self._scheduler: PlanScheduler

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the factor in force, which may be that of a resumed run."""
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        self._scheduler = scheduler
        self._scheduler.feedback = self.feedback.factor

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of the feedback, and what it was gathered for."""
        checkpoint["feedback"] = {
            "kind": type(self.feedback).__name__,
            "subject": self.feedback.subject,
            "factor": self.feedback.factor,
            "state": self.feedback.state_dict(),
            "told": self._told,
            "looked": self._looked,
            "history": list(self.history),
            **self._own_state(trainer),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the saved state as far as it fits what the configuration says now."""
        saved = checkpoint.get("feedback")
        if saved is None or trainer.state.fn != "fit":
            return
        self.history[:] = saved["history"]
        kind, factor = type(self.feedback).__name__, saved["factor"]
        if FORMER_NAMES.get(saved["kind"], saved["kind"]) != kind:
            self._say(dropped_message(saved))
            return
        self._told, self._looked = saved["told"], saved["looked"]
        if saved["subject"] == self.feedback.subject:
            self.feedback.load_state_dict(saved["state"])
            self._load_own_state(saved, trainer)
        else:
            self.feedback.set(factor)
            self._say(
                f"feedback: it looked at {saved['subject']} and looks at {self.feedback.subject} now: "
                f"what it had seen is dropped, its factor of {factor:.4g} is kept"
            )
        if self.feedback.factor != factor:
            self._say(f"feedback: its factor was {factor:.4g} and is {self.feedback.factor:.4g}, within today's bounds")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so where it never had anything to look at."""
        if not self._looked:
            log.warning("feedback: it never acted, since the run ended before it first looked at anything")

    def _own_state(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What the loop itself has gathered."""
        return {}

    def _load_own_state(self, saved: Mapping[str, Any], trainer: pl.Trainer) -> None:
        """Go on with what `_own_state` gave."""

    def _act(self, trainer: pl.Trainer, value: float, what: str) -> None:
        """Put the factor in force that a reading left behind, and tell it where it changed."""
        factor = self.feedback.factor
        self._scheduler.feedback = factor
        self._looked = True
        if not math.isfinite(value) and not self._warned:
            self._warned = True
            log.warning("feedback: step %d, %s is %s: %s", trainer.global_step, what, value, self.feedback.nonfinite)
        ratio = max(factor / self._told, self._told / factor)
        if ratio == 1.0 or ratio < self.feedback.log_ratio:
            return
        rates = sorted({float(rate) for rate in self._scheduler.get_lr()})
        shown = f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g}..{rates[-1]:.3g}"
        change = f"factor {self._told:.4g} -> {factor:.4g}, LR {shown}"
        self._say(f"feedback: step {trainer.global_step}, {what} {value:.4g}: {change}")
        self.history.append({"step": trainer.global_step, "value": value, "factor": factor})
        del self.history[:-MAX_HISTORY]
        self._told = factor


class AfterValidation(FeedbackLoop):
    """Reads a metric of validation after each of them."""

    feedback: MetricFeedback

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the metric, but not that of a sanity check."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            value = logged_metric(trainer, self.feedback.monitor)
            self.feedback.update(value)
            self._act(trainer, value, self.feedback.monitor)


class BetweenSteps(FeedbackLoop):
    """Reads a metric of training every so many steps.

    The training loss is gathered here, on the device.
    """

    feedback: MetricFeedback
    _saved_sums: list[list[float]] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count, and to gather."""
        super().on_train_start(trainer, pl_module)
        self._times = ReadingTimes(self.feedback.interval(self._horizon), trainer.global_step)
        self._gathers = self.feedback.monitor == TRAIN_LOSS
        total, batches = [0.0, 0] if self._saved_sums is None else _share(self._saved_sums, trainer)
        self._loss = MeanLoss(pl_module.device, widest_float(pl_module.device), total, int(batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Gather the loss; read where it is time."""
        if self._gathers:
            self._loss.add(outputs)
        if self._times.after_batch(trainer):
            self._read(trainer, "a metric that is logged at an epoch's end needs feedback.every='1 epoch'")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read what waited for the end of the epoch."""
        if self._times.after_epoch():
            self._read(trainer)

    def _read(self, trainer: pl.Trainer, hint: str | None = None) -> None:
        value = self._mean_loss(trainer) if self._gathers else logged_metric(trainer, self.feedback.monitor, hint)
        if value is not None:
            self.feedback.update(value)
            self._act(trainer, value, self.feedback.monitor)

    def _mean_loss(self, trainer: pl.Trainer) -> float | None:
        """The mean loss since the last reading over all devices; None where every batch was skipped."""
        if trainer.world_size > 1:
            self._loss.reduce()
        value = None if self._loss.skipped else float(self._loss.mean(trainer))
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
    """Shows the weights and gradients of each step to a feedback, just before the step is made."""

    feedback: StepFeedback
    _step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand over the weights.

        Raises:
            LrflowError: the strategy divides them over the devices.
        """
        super().on_train_start(trainer, pl_module)
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = type(self.feedback).__name__.lower()
            raise LrflowError(f"feedback={name} looks at whole weights, and {trainer.strategy} divides them")
        trained = {parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
        # In the order of the model, since that of the groups changes with their rules.
        parameters = [parameter for parameter in pl_module.parameters() if parameter in trained]
        try:
            self.feedback.watch(parameters, self._horizon)
        except ValueError as error:
            raise LrflowError(f"the state of the feedback cannot be gone on from: {error}") from error

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look, and put a new factor in force for this very step."""
        if trainer.global_step == self._step:
            return  # a line search evaluates the batch again
        self._step = trainer.global_step
        value = self.feedback.observe(float(self._scheduler.get_lr()[0]))
        if value is not None:
            if trainer.world_size > 1:
                self.feedback.set(trainer.strategy.broadcast(self.feedback.factor))
            self._act(trainer, value, "measured")


def make_feedback_loop(feedback: Feedback, horizon: Horizon, say: Callable[[str], None] = log.info) -> FeedbackLoop:
    """The loop that a feedback needs.

    Raises:
        ConfigError: how often it looks cannot be counted in steps of this run.
    """
    if isinstance(feedback, MetricFeedback):
        if feedback.after_validation:
            return AfterValidation(feedback, horizon, say)
        feedback.interval(horizon)
        return BetweenSteps(feedback, horizon, say)
    feedback.interval(horizon)
    return BeforeSteps(feedback, horizon, say)


def dropped_message(saved: Mapping[str, Any]) -> str:
    """What a person is told whose run goes on without the feedback that a checkpoint has a state of."""
    return (
        f"feedback: the run had {saved['kind']} at factor {saved['factor']:.4g}; its state is dropped, "
        "and the LR goes on from the planned one"
    )


def _share(sums: list[list[float]], trainer: pl.Trainer) -> list[float]:
    """What of the saved sums this process goes on with; under another number of them, the first one takes all."""
    if len(sums) == trainer.world_size:
        return sums[trainer.global_rank]
    return [sum(column) for column in zip(*sums, strict=True)] if trainer.is_global_zero else [0.0, 0.0]

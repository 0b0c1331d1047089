"""Lightning's loops under a plan: the planned steps are made, over epochs that are as long as the data make them.

Gradients of an optimizer step as the mean over the batches that are really in its window.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loops import _EvaluationLoop, _FitLoop, _TrainingEpochLoop
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from pytorch_lightning.trainer import call
from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource
from pytorch_lightning.trainer.states import RunningStage, TrainerFn
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden

from lrflow.data import is_ordered
from lrflow.errors import LrflowError
from lrflow.training.metrics import ValidationTimes

log = logging.getLogger("lrflow")


class LookAhead(CombinedLoader):
    """Loaders whose length is only nominal: Lightning fetches one batch ahead of them, so it knows their last one.

    A length that Lightning knows it trusts (2.6.6): it cuts an epoch there, and where the loader ends before, the epoch
    ends without its validation and without the last step of an accumulation window.

    On several processes an epoch ends for all of them where the first loader ends: one that went on alone would wait
    for ever for the gradients of the others.

    Args:
        loaders: as `CombinedLoader` takes them; the loaders themselves keep their lengths.
        mode: likewise.
        limit: batches of an epoch that are used at most; None for no limit.
        all_have: whether something holds in all processes, each of which asks at this moment; None: there is one.
    """

    def __init__(
        self, loaders: Any, mode: Any, limit: int | None = None, all_have: Callable[[bool], bool] | None = None
    ) -> None:
        super().__init__(loaders, mode)
        self._limit, self._given, self._all_have = limit, 0, all_have

    def __len__(self) -> int:
        raise TypeError("the length of the training data is only nominal")

    def __iter__(self) -> LookAhead:
        self._given = 0
        super().__iter__()
        return self

    def __next__(self) -> Any:
        if self._given == self._limit:
            raise StopIteration
        try:
            batch, found = super().__next__(), True
        except StopIteration:
            batch, found = None, False
        if not (found if self._all_have is None else self._all_have(found)):
            raise StopIteration
        self._given += 1
        return batch


class _LoaderSource(_DataLoaderSource):
    """Where the training loaders come from; those whose length is only nominal are looked ahead of."""

    def dataloader(self) -> Any:
        loaders, data = super().dataloader(), self.instance
        if (
            not isinstance(data, pl.LightningDataModule)
            or data.trainer is None
            or not has_nominal_length(loaders, data)
        ):
            return loaders
        limit = data.trainer.limit_train_batches
        combined, strategy = combine(loaders), data.trainer.strategy
        return LookAhead(
            combined.iterables,
            combined._mode,
            limit if isinstance(limit, int) else None,
            strategy.reduce_boolean_decision if data.trainer.world_size > 1 else None,
        )


def combine(loaders: Any) -> CombinedLoader:
    """Loaders as Lightning goes through them: of several, until the longest is at its end."""
    return loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")


def has_nominal_length(loaders: Any, data: pl.LightningDataModule) -> bool:
    """Whether an epoch may have another number of batches than the loaders say, and Lightning is to look ahead.

    It is exact where lrflow makes the order. It is trusted where the data save their own state, which would be that of
    a batch too many.
    """
    leaves = combine(loaders).flattened
    stateful = is_overridden("load_state_dict", data) or any(hasattr(loader, "state_dict") for loader in leaves)
    return not stateful and not all(is_ordered(loader) for loader in leaves)


class FitLoop(_FitLoop):
    """Goes from epoch to epoch until the steps of the plan are made: no number of epochs ends a run."""

    epoch_loop: EpochLoop

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, min_epochs=0, max_epochs=-1)
        self.epoch_loop = EpochLoop(trainer)
        self._data_source = _LoaderSource(None, "train_dataloader")

    @property
    def max_epochs(self) -> int:
        """None is a limit."""
        return -1

    @max_epochs.setter
    def max_epochs(self, value: int | None) -> None:
        """Lightning writes what `Trainer.max_epochs` tells."""


class AfterModuleHooks:
    """A callback that acts at the end of a validation of the fit, after the module's own `on_validation_end`.

    Lightning calls the hooks of all callbacks before the module's.
    """

    def after_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All hooks of this validation have run; the module is still in evaluation mode."""


class ValidationLoop(_EvaluationLoop):
    """The validations of a fit, at whose end each `AfterModuleHooks` acts, in the order of the callbacks."""

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False)

    def _on_evaluation_end(self, *args: Any, **kwargs: Any) -> None:
        super()._on_evaluation_end(*args, **kwargs)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AfterModuleHooks):
                callback.after_validation_end(self.trainer, self.trainer.lightning_module)


class AccumulationWindows(_AutomaticOptimization):
    """The accumulation windows of an epoch, where batches may be missing: a `collate_fn` may return None for one.

    Lightning (2.6.6) goes by the place of a batch. Where the first of a window is missing, it adds the window's
    gradients to those of the step before; where the last is missing, it makes no step.

    Attributes:
        is_open: whether the gradients of a batch wait for their step.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.is_open = False

    def run(self, optimizer: torch.optim.Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Train a batch, and make the step where it is the last of its window."""
        result = super().run(optimizer, batch_idx, kwargs)
        self.is_open = self.trainer.fit_loop._should_accumulate()
        return result

    def close(self, batch_idx: int) -> None:
        """Make the step of a window whose last batches are missing, with the gradients that it has.

        Raises:
            LrflowError: there are several devices, which exchange gradients in the backward pass of the last batch.
        """
        if self.trainer.world_size > 1:
            raise LrflowError(
                f"step {self.trainer.global_step}: the last batch of an accumulation window was None or skipped, and "
                "several devices exchange their gradients in its backward pass: give every window its last batch"
            )
        self.is_open = False
        loss = torch.zeros(())  # of no batch; without one, gradient scalers would make no step
        self._optimizer_step(batch_idx, lambda: loss)

    def _make_zero_grad_fn(self, batch_idx: int, optimizer: torch.optim.Optimizer) -> Callable[[], None] | None:
        """What clears the gradients of the step before, at the first batch that a window has."""
        if self.is_open:
            return None
        return super()._make_zero_grad_fn(batch_idx - batch_idx % self.trainer.accumulate_grad_batches, optimizer)


class EpochLoop(_TrainingEpochLoop):
    """The batches of an epoch, whatever their number, and the validation that belongs to its end and to the run's.

    Attributes:
        steps_per_epoch: optimizer steps of an epoch as the plan counts them; None where nobody knows.
        validates_at_end: whether the end of the run is validated.
        validations: when the run validates before its end; None: as Lightning has it.
    """

    automatic_optimization: AccumulationWindows

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.automatic_optimization = AccumulationWindows(trainer)
        self.steps_per_epoch: int | None = None
        self.validates_at_end = False
        self.validations: ValidationTimes | None = None
        self._told = False
        self._before = 0  # steps before this batch
        self._stepped = True  # whether the last batch made one
        self._validated = -1  # batches behind the last validation
        self.val_loop = ValidationLoop(trainer)
        validate = self.val_loop.run

        def noting() -> Any:
            self._validated = self.batch_progress.total.ready
            return validate()

        self.val_loop.run = noting  # type: ignore[method-assign]

    @property
    def is_run_over(self) -> bool:
        """Whether the last step of the plan is made, or something has ended the run before."""
        stopped = self.trainer.should_stop and self.trainer.fit_loop._can_stop_early
        return stopped or self.global_step >= self.max_steps > -1

    @property
    def is_validated(self) -> bool:
        """Whether no batch was trained since the last validation."""
        return self._validated == self.batch_progress.total.ready

    def run(self, data_fetcher: _DataFetcher) -> None:
        """Train an epoch; afterwards see how it ended, and validate where that is due and was not done."""
        whole, before = not self.restarting, self.global_step
        super().run(data_fetcher)
        if not self.is_run_over:  # so the loader is at its end, whatever its length said
            self.batch_progress.is_last_batch = True
            if whole:
                self._look_at(self.global_step - before)
        if self._is_validation_due() and not self.is_validated:
            self._validate()

    def reset(self) -> None:
        """Begin an epoch, with a new window."""
        super().reset()
        self.automatic_optimization.is_open = False

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train a batch.

        Raises:
            LrflowError: the module optimizes by hand, which it did not when it was built.
        """
        module = self.trainer.lightning_module
        if not module.automatic_optimization:
            raise LrflowError(
                f"step {self.global_step}: {type(module).__name__} has switched to optimizing by hand "
                "(automatic_optimization = False), and the plan would not be executed"
            )
        self._before = self.global_step
        try:
            super().advance(data_fetcher)
        except StopIteration:
            if self.global_step > self._before:  # on_train_batch_start ended the epoch, and with it a window
                for hook in (call._call_callback_hooks, call._call_lightning_module_hook):
                    hook(self.trainer, "on_train_batch_end", {}, None, self.batch_idx)
                self.on_advance_end(data_fetcher)
            raise

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        """Go on in the plan where a step was made: Lightning (2.6.6) asks after batches that were skipped as well."""
        if interval == "step" and not update_plateau_schedulers:
            if self.automatic_optimization.is_open and not self._should_accumulate():
                self.automatic_optimization.close(self.batch_idx)
            self._stepped = self.global_step > self._before
        if self._stepped:
            super().update_lr_schedulers(interval, update_plateau_schedulers)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validate where that is due; the rows of loggers are labelled by the steps that were made."""
        if not self._should_accumulate():
            self._batches_that_stepped = max(0, self.global_step - 1)
        super().on_advance_end(data_fetcher)
        self._batches_that_stepped = self.global_step

    def _validate(self) -> None:
        """As Lightning does after a batch; what is logged belongs to the last step, as there."""
        stepped = not self._should_accumulate() and self.global_step > 0
        self._batches_that_stepped -= stepped
        self.val_loop.restarting = False
        self.trainer.validating = True
        self.val_loop.run()
        self.trainer.training = True
        self._batches_that_stepped += stepped

    def _look_at(self, steps: int) -> None:
        """See whether an epoch had the steps that the plan counts."""
        epoch = self.trainer.current_epoch + 1
        if not steps:
            where = " in one of the processes" if self.trainer.world_size > 1 else ""
            why = f"the training data: epoch {epoch} had no batch to make a step with{where}"
            self.trainer.stop(why)  # type: ignore[attr-defined]
        elif self.steps_per_epoch not in (None, steps) and not self._told:
            self._told = True
            log.warning(
                "epoch %d had %d steps and not the %d that the length of the training data says: the %d steps of the "
                "plan are made all the same, over as many epochs as they take",
                epoch,
                steps,
                self.steps_per_epoch,
                self.max_steps,
            )

    def _is_validation_due(self) -> bool:
        if not self.trainer.enable_validation or not self.batch_progress.total.ready:
            return False
        if self.is_run_over:
            return self.validates_at_end
        return self.validations is not None and self.validations.after_epoch(self.trainer.current_epoch + 1)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """Lightning counts batches (2.6.6), of which the last step of an epoch may have fewer than the others."""
        trainer, times, due = self.trainer, self.validations, True
        if times and not times.epochs:
            batches = trainer.num_training_batches
            if batches == float("inf"):
                batches = (self.steps_per_epoch or 1) * trainer.accumulate_grad_batches
            steps = self.global_step if self._stepped else None
            due = times.after_batch(self.batch_progress.current.ready, int(batches), steps)
        return (due or trainer.should_stop) and super()._should_check_val_fx(data_fetcher)


class WindowMean(Callback):
    """Makes the gradients of a short accumulation window the mean over its batches, as those of a full one are.

    Lightning divides every loss by the batches of a full window (2.6.6). A window is short at the end of an epoch that
    does not divide evenly, and where `training_step` skipped a batch of it. Full windows are left as they are, bit for
    bit. It has to stand before whatever looks at the gradients.

    Args:
        accumulate: batches of a full window.
    """

    def __init__(self, accumulate: int) -> None:
        self._accumulate, self._batches = accumulate, 0

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Count a batch that has a loss."""
        self._batches += 1

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Weigh the gradients by what was there."""
        batches, self._batches = self._batches, 0
        if not 0 < batches < self._accumulate or trainer.strategy.handles_gradient_accumulation:
            return
        weight = self._accumulate / batches
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.requires_grad:  # of an optimizer of second order
                    parameter.grad = parameter.grad * weight
                elif parameter.grad is not None:
                    parameter.grad.mul_(weight)

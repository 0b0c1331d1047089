"""Lightning's loops, changed so that the plan's steps end the run and epochs are as long as the data."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops import _FitLoop, _TrainingEpochLoop
from pytorch_lightning.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from pytorch_lightning.trainer import call

from lrflow.data.order import start_at
from lrflow.errors import LrflowError
from lrflow.plan import PlanScheduler
from lrflow.schedules import Horizon
from lrflow.training.accumulation import AccumulationWindows
from lrflow.training.lean_loop import LeanBatches, obstacle
from lrflow.training.look_ahead import LoaderSource
from lrflow.training.manual_optimization import ManualOptimizers, TrainingSteps
from lrflow.training.metric_reading import ValidationTimes
from lrflow.training.recovery import RollbackDue
from lrflow.training.state import random_state, set_random_state
from lrflow.training.validation_loop import ValidationLoop

log = logging.getLogger("lrflow")


class FitLoop(_FitLoop):
    """Runs epochs until the steps of the plan are done; no number of epochs ends a run.

    Attributes:
        random_state: of a run that is resumed between two epochs, until it trains; else None. torch draws the seed of
            a loader's workers when an epoch starts, from the global generator unless the loader has one of its own. So
            the state is restored before that.
        first_random_state: the one before the first epoch of this process; None: its loaders were not made yet.
    """

    epoch_loop: EpochLoop

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, min_epochs=0, max_epochs=-1)
        self.epoch_loop = EpochLoop(trainer)
        self._data_source = LoaderSource(None, "train_dataloader")
        self.random_state: dict[str, Any] | None = None
        self.first_random_state: dict[str, Any] | None = None
        self._start: tuple[int, int] | None = None

    def run(self) -> None:
        """Train to the end of the plan; where a rollback is due on the way, from an earlier state on."""
        while True:
            try:
                return super().run()
            except RollbackDue:
                self.trainer.rollback.roll_back(self.trainer)  # type: ignore[attr-defined]

    def rewind(self, epoch: int, batch: int) -> None:
        """Drop the loaders and what belongs to this pass, so that `run` starts at a batch of an epoch, both from 0."""
        if self._data_fetcher is not None:
            self._data_fetcher.teardown()
        self._data_fetcher = self._combined_loader = None
        self._start = epoch, batch
        self.epoch_loop.rewind()

    def on_run_start(self) -> None:
        """Call the hooks at the start of the training, and choose the loop over the batches."""
        super().on_run_start()
        self.epoch_loop.choose()

    def on_advance_end(self) -> None:
        """End an epoch; roll back if its end has shown that this is due."""
        super().on_advance_end()
        self.epoch_loop.check_rollback()

    def setup_data(self) -> None:
        """Make the loaders, and start their first epoch."""
        if self.first_random_state is None:
            self.first_random_state = random_state()
        super().setup_data()
        if self.random_state is not None:
            self.random_state = random_state()
        self.count_batches()

    def count_batches(self) -> None:
        """Take the number of batches of the present epoch from a loader whose batches change their size."""
        if self.trainer.varies_loader and self._combined_loader is not None:  # type: ignore[attr-defined]
            self._combined_loader.limits = None  # those of the first epoch of this process
            self.max_batches = max(len(loader) for loader in self._combined_loader.flattened)
            if isinstance(self.trainer.val_check_interval, float):  # else after every batch, if the loop decides so
                self.trainer.val_check_batch = self.max_batches

    def _load_combined_loader_states(self) -> None:
        """Restore what is needed when the loaders exist and their first epoch has not started."""
        super()._load_combined_loader_states()
        if self._start is not None and self._combined_loader is not None:
            (epoch, batch), loaders = self._start, self._combined_loader.flattened
            self._start = None
            for loader in loaders:  # of several, the shorter ones restart within an epoch, so all do
                start_at(loader, epoch, batch if len(loaders) == 1 else 0)
        if self.random_state is not None:
            set_random_state(self.random_state)

    @property
    def _can_stop_early(self) -> bool:
        """Whether the least epochs and steps are made; an epoch counts from its last batch on, for its validation."""
        is_whole = self.epoch_loop.batch_progress.is_last_batch
        epochs = max(0, self.epoch_progress.current.ready - (not is_whole))
        return epochs >= (self.min_epochs or 0) and self.epoch_loop.global_step >= (self.min_steps or 0)

    @property
    def max_epochs(self) -> int:
        """-1: the number of epochs is not limited."""
        return -1

    @max_epochs.setter
    def max_epochs(self, value: int | None) -> None:
        """Ignore the value of `Trainer.max_epochs`, which Lightning sets."""


class EpochLoop(_TrainingEpochLoop):
    """The loop over the batches of an epoch, with any number of batches, and over the validations in it.

    Attributes:
        length: length of the run; None before `Trainer.run_for`.
        is_lean: whether this fit trains by the lean loop.
        own_steps: counts the steps of automatic optimization.
        validates_at_end: whether to validate at the end of the run.
        validations: when to validate before the end of the run; None: Lightning decides.
        have_hooks_changed: whether other hooks of callbacks are to be called than when the lean loop looked them up.
        waited: seconds for which this process has waited for training batches so far.
    """

    automatic_optimization: AccumulationWindows

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.automatic_optimization = AccumulationWindows(trainer)
        self.manual_optimization = TrainingSteps(trainer)
        self.length: Horizon | None = None
        self._window = 0  # batches of the epoch before the present accumulation window
        self.validates_at_end = False
        self.validations: ValidationTimes | None = None
        self.waited = self._fetching = 0.0
        self._lean: LeanBatches | None = None
        self.is_lean = self.have_hooks_changed = False
        self.own_steps = self.automatic_optimization.optim_progress.optimizer.step.total
        self._has_warned = False
        self._steps_before = 0  # steps before this batch
        self._stepped = True  # whether the last batch made a step
        self._validated = -1  # number of batches before the last validation
        self.val_loop = ValidationLoop(trainer)
        validate = self.val_loop.run

        def recording() -> Any:
            self._validated = self.batch_progress.total.ready
            return validate()

        self.val_loop.run = recording  # type: ignore[method-assign]

    def choose(self) -> None:
        """Choose the loop over the batches of this fit: the lean one, unless it cannot train the run as Lightning's."""
        trainer: Any = self.trainer
        steps = [(type(one.scheduler), one.interval, one.frequency) for one in trainer.lr_scheduler_configs]
        fits = trainer.loop != "lightning" and steps == [(PlanScheduler, "step", 1)]
        self.is_lean = fits and obstacle(trainer, trainer.lightning_module) is None
        self._lean = LeanBatches(self) if self.is_lean else None

    @property
    def steps_made(self) -> int:
        """Number of steps by either optimization; `global_step` counts those of the one that the module has now."""
        return self.own_steps.completed + self.manual_optimization.optim_step_progress.total.completed

    @property
    def is_run_over(self) -> bool:
        """Whether the last step of the plan is done, or the run was stopped earlier."""
        stopped = self.trainer.should_stop and self.trainer.fit_loop._can_stop_early
        return stopped or self.global_step >= self.max_steps > -1

    @property
    def is_validated(self) -> bool:
        """Whether no batch was trained on since the last validation."""
        return self._validated == self.batch_progress.total.ready

    def run(self, data_fetcher: _DataFetcher) -> None:
        """Train an epoch; afterwards check its number of steps, and validate if that is still due."""
        whole, before = not self.restarting, self.global_step
        super().run(data_fetcher)
        if not self.is_run_over:  # so the loader has ended, whatever its length is
            self.batch_progress.is_last_batch = True
            if whole:
                self._check_steps(self.global_step - before)
        if self._is_validation_due() and not self.is_validated:
            self._validate()

    def check_rollback(self) -> None:
        """Roll back if that is due; the state of the run is that between two batches."""
        if (rollback := self.trainer.rollback) is not None:  # type: ignore[attr-defined]
            rollback.check(self.trainer)

    def rewind(self) -> None:
        """Forget what is known of this pass and in no checkpoint."""
        self._validated, self._stepped, self._skip_next_val = -1, True, False
        self.val_loop._has_run = False
        self.automatic_optimization.is_open = False

    def reset(self) -> None:
        """Start an epoch, with a new accumulation window."""
        super().reset()
        self.automatic_optimization.is_open = False

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Start the loaders of an epoch, with their workers."""
        waited, started = self.waited, time.perf_counter()
        self.trainer.fit_loop.count_batches()  # type: ignore[attr-defined]
        super().on_run_start(data_fetcher)
        self.waited = waited + time.perf_counter() - started  # batches that are fetched here count once

    def _on_before_fetch(self) -> None:
        super()._on_before_fetch()
        self._fetching = time.perf_counter()

    def _on_after_fetch(self) -> None:
        self.waited += time.perf_counter() - self._fetching
        super()._on_after_fetch()

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train on a batch; with the lean loop, up to a batch after which more than training may be due.

        Raises:
            LrflowError: the module switched to manual optimization or back after its optimizers were made.
        """
        module = self.trainer.lightning_module
        if module.automatic_optimization != (ManualOptimizers.of(module) is None):
            raise LrflowError(
                f"step {self.steps_made}: {type(module).__name__} has switched to another optimization "
                f"(automatic_optimization = {module.automatic_optimization}), so the plan would not be executed"
            )
        self._steps_before = self.global_step
        if not self.automatic_optimization.is_open:
            self._begin_window()
        try:
            if self._lean is None or self.restarting:
                super().advance(data_fetcher)
            else:
                assert isinstance(data_fetcher, _PrefetchDataFetcher)
                self._lean.run(data_fetcher)
        except StopIteration:
            if self.global_step > self._steps_before:  # on_train_batch_start ended the epoch, and the window was closed
                for hook in (call._call_callback_hooks, call._call_lightning_module_hook):
                    hook(self.trainer, "on_train_batch_end", {}, None, self.batch_idx)
                self.on_advance_end(data_fetcher)
            raise

    def _begin_window(self) -> None:
        """Set how many batches the next step accumulates, where that changes over the run."""
        unit, horizon = self.trainer.batch_unit, self.length  # type: ignore[attr-defined]
        if unit is not None and horizon is not None and horizon.batch is not None:
            self._window = self.batch_progress.current.ready
            self.trainer.accumulate_grad_batches = horizon.batch.size(self.global_step) // unit

    def _accumulated_batches_reached(self) -> bool:
        """Whether the present batch is the last one of a full accumulation window."""
        if self.trainer.batch_unit is None:  # type: ignore[attr-defined]
            return super()._accumulated_batches_reached()
        return bool(self.batch_progress.current.ready - self._window >= self.trainer.accumulate_grad_batches)

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        """Advance the plan only after a step: Lightning (2.6.6) also calls this after skipped batches."""
        if interval == "step" and not update_plateau_schedulers:
            if self.automatic_optimization.is_open and not self._should_accumulate():
                self.automatic_optimization.close(self.batch_idx)
            self._stepped = self.global_step > self._steps_before
        if self._stepped:
            super().update_lr_schedulers(interval, update_plateau_schedulers)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validate if that is due; logged rows carry the number of steps that were made."""
        if not self._should_accumulate():
            self._batches_that_stepped = max(0, self.global_step - 1)
        self.check_rollback()
        super().on_advance_end(data_fetcher)
        self._batches_that_stepped = self.global_step
        self.check_rollback()

    def _validate(self) -> None:
        """Validate as Lightning does after a batch; logged values belong to the last step, as there."""
        stepped = not self._should_accumulate() and self.global_step > 0
        self._batches_that_stepped -= stepped
        self.val_loop.restarting = False
        self.trainer.validating = True
        self.val_loop.run()
        self.trainer.training = True
        self._batches_that_stepped += stepped

    def _check_steps(self, steps: int) -> None:
        """Stop the run after an epoch without steps; warn once if an epoch has other steps than the plan counts."""
        epoch = self.trainer.current_epoch + 1
        if not steps:
            where = " in one of the processes" if self.trainer.world_size > 1 else ""
            self.trainer.fit_loop.min_epochs, self.min_steps = 0, None  # no step would ever reach them
            reason = f"the training data: epoch {epoch} had no batch for a step{where}"
            self.trainer.stop(reason)  # type: ignore[attr-defined]
        elif (planned := self._planned_steps(epoch - 1)) not in (None, steps) and not self._has_warned:
            self._has_warned = True
            log.warning(
                "epoch %d had %d steps instead of %d, as expected from the length of the training data; the run still "
                "makes the %d steps of the plan, over as many epochs as needed",
                epoch,
                steps,
                planned,
                self.max_steps,
            )

    def _planned_batches(self) -> int:
        """Return the batches of an epoch in the plan, for a loader whose length is only nominal."""
        horizon, unit = self.length, self.trainer.batch_unit  # type: ignore[attr-defined]
        if unit and horizon and horizon.batch and horizon.batch.epoch:
            return int(horizon.batch.epoch // unit)
        steps = horizon.steps_per_epoch if horizon else None
        return (steps or 1) * self.trainer.accumulate_grad_batches

    def _planned_steps(self, epoch: int) -> int | None:
        """Return the steps of an epoch, from 0, in the plan; None if unknown."""
        if self.length is None or self.length.batch is None:
            return None if self.length is None else self.length.steps_per_epoch
        return self.length.batch.steps_in(epoch) if self.length.has_epochs else None

    def _is_validation_due(self) -> bool:
        if not self.trainer.enable_validation or not self.batch_progress.total.ready:
            return False
        if self.is_run_over:
            return self.validates_at_end
        return self.validations is not None and self.validations.after_epoch(self.trainer.current_epoch + 1)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """Decide by steps: Lightning (2.6.6) counts batches, and the last step of an epoch may have fewer batches."""
        due = self.validations is None or self.validations.epochs is not None or self.is_time_to_validate()
        return (due or self.trainer.should_stop) and super()._should_check_val_fx(data_fetcher)

    def is_time_to_validate(self) -> bool:
        """Whether `validations`, in steps or shares of an epoch, has one after this batch."""
        assert self.validations is not None
        batches = self.trainer.num_training_batches
        if batches == float("inf"):
            batches = self._planned_batches()
        steps = self.global_step if self._stepped else None
        return self.validations.after_batch(self.batch_progress.current.ready, int(batches), steps)

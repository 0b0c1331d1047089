"""A lean loop over the batches of an epoch: it computes what Lightning's does, without the calls between its parts."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.apply_func import _BLOCKING_DEVICE_TYPES, move_data_to_device
from pytorch_lightning.loops.fetchers import _PrefetchDataFetcher
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult
from pytorch_lightning.loops.utilities import _block_parallel_sync_behavior
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.combined_loader import _MaxSizeCycle
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from lrflow.errors import ConfigError, Problem
from lrflow.training.accumulation import SKIPPED, not_evaluated
from lrflow.training.isolation import transfer_batch
from lrflow.training.trainer_options import NoProfiler

_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def obstacle(trainer: pl.Trainer, module: pl.LightningModule) -> str | None:
    """Return why a run needs Lightning's own loop over the batches; None: the lean one trains it bit for bit the same.

    Args:
        trainer: of the run.
        module: the module to train.
    """
    name, strategy = type(module).__name__, trainer.strategy
    if not module.automatic_optimization:
        return f"{name} steps its optimizers itself"
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
        return f"{type(strategy).__name__} trains in a way of its own"
    if getattr(trainer, "batch_unit", None) or getattr(trainer, "varies_loader", False):
        return "schedule.batch changes the batches of a step"
    if getattr(strategy, "_model_averaging_period", None) is not None:
        return f"{type(strategy).__name__} averages the models of the devices"
    if type(trainer.profiler) is not NoProfiler:  # type: ignore[attr-defined]
        return f"{type(trainer.profiler).__name__} measures the parts of Lightning's loop"  # type: ignore[attr-defined]
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return f"{name}.training_step takes the iterator of the loader"
    return None


def check_loop(trainer: pl.Trainer, module: pl.LightningModule) -> str | None:
    """Return the line about the loop over the batches, if a run that may take the lean one needs Lightning's.

    Args:
        trainer: of the run, whose `loop` is what the config chose.
        module: the module to train.

    Raises:
        ConfigError: the config asks for the lean loop, which cannot train this run.
    """
    choice, reason = trainer.loop, obstacle(trainer, module)  # type: ignore[attr-defined]
    if reason is None or choice == "lightning":
        return None
    if choice == "lean":
        raise ConfigError([Problem("trainer.loop", reason, "lean", "trainer.loop=auto takes Lightning's loop then")])
    return f"loop over the batches: Lightning's, since {reason}"


class LeanBatches:
    """Trains batches of an epoch as Lightning's loop (2.6.6) does.

    Weights, metrics and the content of checkpoints are equal bit for bit. Every hook of callbacks and of the module is
    called where Lightning calls it; they are looked up once per epoch, after validations and `switch_hooks`, and if
    callbacks are added or removed: from the next batch on, if that is after `on_train_batch_start`. What the module or
    the precision plugin replaces of a step goes through Lightning's own code.

    Args:
        loop: the `lrflow.training.loops.EpochLoop` whose counters it moves.
    """

    def __init__(self, loop: Any) -> None:
        trainer: pl.Trainer = loop.trainer
        module, strategy = trainer.lightning_module, trainer.strategy
        self._loop, self._trainer, self._module = loop, trainer, module
        self._windows = loop.automatic_optimization
        self._optimizer = trainer.optimizers[0]
        self._scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        precision = strategy.precision_plugin
        self._converts = type(precision).convert_input is not Precision.convert_input
        # What only the plugin knows: how to scale the loss, or to step in another precision.
        kind = MixedPrecision if isinstance(precision, MixedPrecision) and precision.scaler is None else Precision
        parts = ("pre_backward", "backward", "post_backward", "optimizer_step", "_after_closure", "_clip_gradients")
        self._is_plain = all(getattr(type(precision), part) is getattr(kind, part) for part in parts)
        self._is_direct = type(precision) is Precision and type(strategy) is SingleDeviceStrategy
        owners = [one for one in (module, trainer.datamodule) if one is not None]  # type: ignore[attr-defined]
        self._moves = self._converts or any(is_overridden(name, one) for one in owners for name in _TRANSFER)
        self._takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)

    def _hooks(self, name: str) -> list[Callable[..., Any]]:
        """Return the hooks of this name that callbacks have."""
        base, found = getattr(pl.Callback, name), []
        for callback in self._trainer.callbacks:  # type: ignore[attr-defined]
            hook = getattr(callback, name)
            if callable(hook) and getattr(hook, "__func__", None) is not base:
                found.append(hook)
        return found

    def _own(self, name: str) -> Callable[..., Any] | None:
        """Return the module's own hook of this name; None: it has Lightning's."""
        hook = getattr(self._module, name)
        return None if getattr(hook, "__func__", None) is getattr(pl.LightningModule, name) else hook

    def run(self, fetcher: _PrefetchDataFetcher) -> None:
        """Train batches until one after which the epoch or the run may end or a validation may be due.

        The caller ends that batch, as Lightning's loop does after each one.

        Args:
            fetcher: yields the batches.

        Raises:
            StopIteration: there is no further batch, or `on_train_batch_start` of the module ended the epoch.
        """
        loop, module, windows = self._loop, self._module, self._windows
        trainer: Any = self._trainer
        optimizer: Any = self._optimizer
        scheduler = self._scheduler
        progress, rollback, guard = loop.batch_progress, trainer.rollback, trainer.batch_guard
        current: Any = progress.current
        total: Any = progress.total
        own_steps = windows.optim_progress.optimizer.step
        zeroed = windows.optim_progress.optimizer.zero_grad
        steps, steps_now = own_steps.total, own_steps.current
        zeroed_total: Any = zeroed.total
        zeroed_now: Any = zeroed.current
        scheduled, scheduled_now = loop.scheduler_progress.total, loop.scheduler_progress.current
        connector, results, attributes = trainer._logger_connector, loop._results, vars(module)
        outer = module._current_fx_name
        batches, validates = trainer.num_training_batches, trainer.enable_validation
        next_batch, move, takes_index = self._reader(fetcher), self._mover(), self._takes_index
        loop.have_hooks_changed, callbacks = False, [*trainer.callbacks]
        before_batch, own_before = self._hooks("on_train_batch_start"), self._own("on_train_batch_start")
        before_zero, own_before_zero = self._hooks("on_before_zero_grad"), self._own("on_before_zero_grad")
        before_backward, own_before_backward = self._hooks("on_before_backward"), self._own("on_before_backward")
        after_backward, own_after_backward = self._hooks("on_after_backward"), self._own("on_after_backward")
        before_step, own_before_step = self._hooks("on_before_optimizer_step"), self._own("on_before_optimizer_step")
        after_batch, own_after = self._hooks("on_train_batch_end"), self._own("on_train_batch_end")
        zero, backward, own_schedule = self._zero(), self._own("backward"), self._own("lr_scheduler_step")
        own_clip = self._own("configure_gradient_clipping")
        clips_always = own_clip or self._own("clip_gradients")
        # A step without hooks may get its gradients before it, and then needs no closure.
        is_whole = type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, LBFGS)
        is_loss_seen = bool(before_backward or own_before_backward or backward)  # which may change it in place
        is_plain = self._is_plain and self._own("optimizer_step") is None
        is_direct, strategy = self._is_direct and trainer.strategy.model is module, trainer.strategy
        multiple, replaced, global_hooks = trainer.world_size > 1, vars(optimizer), _global_optimizer_pre_hooks
        outputs: dict[str, Any] | None = None

        def learn() -> Tensor | None:
            """Compute the loss and the gradients of the batch; return a detached copy of the loss."""
            nonlocal outputs
            if not torch.is_grad_enabled():  # as in steps of optimizers, and where a callback has left it so
                with torch.enable_grad():
                    return learn()
            attributes["_current_fx_name"] = "training_step"
            arguments = (batch, index) if takes_index else (batch,)
            output = module.training_step(*arguments) if is_direct else strategy.training_step(*arguments)
            attributes["_current_fx_name"] = outer
            if output is None and multiple:
                raise RuntimeError("training_step returned None in a data-parallel run, whose processes then wait")
            if not isinstance(output, Tensor):
                result = ClosureResult.from_training_step_output(output, accumulate)
                loss, detached = result.closure_loss, result.loss
                outputs = {} if loss is None else result.asdict()
            else:
                loss = output if accumulate == 1 and not is_loss_seen else output / accumulate
                detached = loss.detach().clone()
                outputs = {"loss": detached}
            if not windows.is_open:
                zeroed_total.ready += 1
                zeroed_now.ready += 1
                if before_zero or own_before_zero:
                    attributes["_current_fx_name"] = "on_before_zero_grad"
                    for hook in before_zero:
                        hook(trainer, module, optimizer)
                    if own_before_zero:
                        own_before_zero(optimizer)
                    attributes["_current_fx_name"] = outer
                zeroed_total.started += 1
                zeroed_now.started += 1
                if zero is not None:
                    attributes["_current_fx_name"] = "optimizer_zero_grad"
                    zero(trainer.current_epoch, index - index % accumulate, optimizer)
                    attributes["_current_fx_name"] = outer
                else:
                    for group in optimizer.param_groups:
                        for parameter in group["params"]:
                            parameter.grad = None
                zeroed_total.completed += 1
                zeroed_now.completed += 1
            if loss is None:
                Closure.warning_cache.warn(SKIPPED)
                return None
            if before_backward or own_before_backward:
                attributes["_current_fx_name"] = "on_before_backward"
                for hook in before_backward:
                    hook(trainer, module, loss)
                if own_before_backward:
                    own_before_backward(loss)
            attributes["_current_fx_name"] = "backward"
            if backward:
                backward(loss)
            else:
                loss.backward()
            if after_backward or own_after_backward:
                attributes["_current_fx_name"] = "on_after_backward"
                for hook in after_backward:
                    hook(trainer, module)
                if own_after_backward:
                    own_after_backward()
            attributes["_current_fx_name"] = outer
            return detached

        def learn_for_step() -> Tensor | None:
            """Compute the gradients of a step, and let the hooks see and change them."""
            loss, value = learn(), trainer.gradient_clip_val
            attributes["_current_fx_name"] = "on_before_optimizer_step"
            for hook in before_step:
                hook(trainer, module, optimizer)
            if own_before_step:
                own_before_step(optimizer)
            if clips_always or value:
                attributes["_current_fx_name"] = "configure_gradient_clipping"
                hook, way = own_clip or module.configure_gradient_clipping, trainer.gradient_clip_algorithm
                hook(optimizer, gradient_clip_val=value, gradient_clip_algorithm=way)
            attributes["_current_fx_name"] = "optimizer_step"
            return loss

        while True:
            loop._steps_before = steps.completed
            batch = next_batch()
            index = current.ready
            progress.is_last_batch = is_last = fetcher.done
            batch = move(batch)
            total.ready += 1
            current.ready += 1
            is_last = is_last or current.ready == batches
            if connector._first_loop_iter is not False:
                connector._first_loop_iter = connector._first_loop_iter is None
            results.batch, results.batch_size, results.dataloader_idx = batch, None, None
            outputs = None
            if batch is None:
                loop._warning_cache.warn(
                    "train_dataloader yielded None. If this was on purpose, ignore this warning..."
                )
                stepped = is_stale = False
            else:
                if before_batch or own_before:
                    attributes["_current_fx_name"] = "on_train_batch_start"
                    for hook in before_batch:
                        hook(trainer, module, batch, index)
                    response = own_before(batch, index) if own_before else None
                    attributes["_current_fx_name"] = outer
                    if response == -1:
                        progress.is_last_batch = True
                        progress.increment_processed()
                        loop.update_lr_schedulers("step", update_plateau_schedulers=False)
                        raise StopIteration
                if is_stale := loop.have_hooks_changed or trainer.callbacks != callbacks:
                    for callback in trainer.callbacks:
                        hook = callback.on_train_batch_start
                        if callback not in callbacks and callable(hook):
                            hook(trainer, module, batch, index)
                    after_batch = self._hooks("on_train_batch_end")
                total.started += 1
                current.started += 1
                accumulate = trainer.accumulate_grad_batches
                if is_stale or not is_plain or (guard is not None and guard.is_active(trainer)):
                    outputs = windows.run(optimizer, index, loop._build_kwargs(OrderedDict(), batch, index))
                    stepped = False
                elif current.ready % accumulate and not is_last:
                    if multiple:
                        with _block_parallel_sync_behavior(strategy):
                            learn()
                    else:
                        learn()
                    windows.is_open, stepped, loop._stepped = True, None, False
                else:
                    steps.ready += 1
                    steps_now.ready += 1
                    if is_whole and not (optimizer._optimizer_step_pre_hooks or global_hooks or "step" in replaced):
                        learn_for_step()
                        optimizer.step()
                    else:
                        attributes["_current_fx_name"] = "optimizer_step"
                        optimizer.step(closure=learn_for_step)
                        if outputs is None:
                            raise not_evaluated(trainer, steps.completed)
                    attributes["_current_fx_name"] = outer
                    steps.completed += 1
                    steps_now.completed += 1
                    windows.is_open, stepped = False, True
            total.processed += 1
            current.processed += 1
            if stepped:
                loop._stepped = True
                scheduled.ready += 1
                scheduled_now.ready += 1
                if own_schedule:
                    own_schedule(scheduler, None)
                else:
                    scheduler.step()
                scheduled.completed += 1
                scheduled_now.completed += 1
            elif stepped is not None:
                loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            attributes["_current_fx_name"] = "on_train_batch_end"
            for hook in after_batch:
                hook(trainer, module, outputs, batch, index)
            if own_after:
                own_after(outputs, batch, index)
            attributes["_current_fx_name"] = outer
            if results:
                connector.on_batch_end()
            results.batch = results.batch_size = None
            total.completed += 1
            current.completed += 1
            if results:
                connector.update_train_step_metrics()
            done = steps.completed
            if is_last or trainer._should_stop or done >= loop.max_steps > -1:
                return
            if loop.have_hooks_changed or trainer.callbacks != callbacks or not module.automatic_optimization:
                return
            if validates and ((times := loop.validations) is None or (not times.epochs and loop.is_time_to_validate())):
                return
            loop._batches_that_stepped = done
            if rollback is not None:
                rollback.check(trainer)

    def _reader(self, fetcher: _PrefetchDataFetcher) -> Callable[[], Any]:
        """Return what reads the next batch; past the parts around a single loader of known length."""
        loop, clock, loaders, length = self._loop, time.perf_counter, fetcher.combined_loader, fetcher.length
        mode = loaders._iterator
        is_single = type(loaders) is CombinedLoader and type(mode) is _MaxSizeCycle and loaders._spec.is_leaf()
        if not is_single or length is None or fetcher.batches:
            return lambda: next(fetcher)[0]
        assert isinstance(mode, _MaxSizeCycle)
        batches = mode.iterators[0]

        def read() -> Any:
            if fetcher.done:
                raise StopIteration
            started = clock()
            try:
                batch = next(batches)
            except StopIteration:
                fetcher.done = mode._consumed[0] = True
                raise
            finally:
                loop.waited += clock() - started
            mode._idx += 1
            fetcher.fetched += 1
            fetcher.done = fetcher.fetched >= length
            return batch

        return read

    def _mover(self) -> Callable[[Any], Any]:
        """Return what moves a batch to the device, by the hooks of the module and the data if they have such."""
        if self._moves:
            return partial(transfer_batch, self._trainer, self._module)
        device = self._trainer.strategy.root_device
        blocks = device.type in _BLOCKING_DEVICE_TYPES

        def move(batch: Any) -> Any:
            if type(batch) is not tuple and type(batch) is not list:
                return move_data_to_device(batch, device)
            for one in batch:
                if type(one) is not Tensor:
                    return move_data_to_device(batch, device)
                if one.device != device:
                    return type(batch)([each.to(device, non_blocking=not blocks) for each in batch])
            return batch if type(batch) is tuple else [*batch]  # which hooks may change, and not the loader's own

        return move

    def _zero(self) -> Callable[..., Any] | None:
        """Return what clears the gradients, if module or optimizer have a way of their own."""
        if own := self._own("optimizer_zero_grad"):
            return own
        zero = self._optimizer.zero_grad
        return None if getattr(zero, "__func__", None) is Optimizer.zero_grad else lambda *_: zero()

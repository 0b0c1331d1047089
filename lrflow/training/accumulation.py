"""Accumulation windows in which batches may be missing: their gradients are means over the batches that they have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from pytorch_lightning.utilities.model_helpers import is_overridden

from lrflow.errors import LrflowError

SKIPPED = "`training_step` returned `None`. If this was on purpose, ignore this warning..."
"""Lightning's warning, which would name the wrong reason for a batch that is left out."""


def not_evaluated(trainer: pl.Trainer, step: int) -> LrflowError:
    """Return the error about a step that did not evaluate the closure with its loss and gradients."""
    module = trainer.lightning_module
    owner = f"{type(trainer.optimizers[0]).__name__}.step"
    if is_overridden("optimizer_step", module):
        owner = f"{type(module).__name__}.optimizer_step"
    return LrflowError(f"step {step}: {owner} did not evaluate its closure, which computes the loss and the gradients")


class _EndOfWindow(ClosureResult):
    """The result of the last batch of a window if it has no loss, but others of its window have gradients.

    Its loss is a placeholder, without which gradient scalers would skip the step; nothing is logged of it.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.loss = torch.zeros(())

    def asdict(self) -> dict[str, Any]:
        """Return what callbacks get of a batch without a loss."""
        return {}


class AccumulationWindows(_AutomaticOptimization):
    """Accumulation windows in which batches may be missing: a `collate_fn` may return None for a batch.

    Lightning (2.6.6) decides by the index of a batch. If the first batch of a window is missing, it adds the window's
    gradients to those of the previous step; if the last is missing, it skips the step.

    Attributes:
        is_open: whether there are gradients without their step yet.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.is_open = False

    def _training_step(self, kwargs: OrderedDict[str, Any]) -> ClosureResult:
        """Compute the loss of a batch; none if the batch is left out, as if the module's own step returned None."""
        guard, train = self.trainer.batch_guard, partial(super()._training_step, kwargs)  # type: ignore[attr-defined]
        ends_window = self.is_open and not self.trainer.fit_loop._should_accumulate()
        if guard is None or not guard.is_active(self.trainer):
            result = train()
        elif (kept := guard.train(self.trainer, next(iter(kwargs.values())), train)) is not None:
            result = kept
        else:
            result = ClosureResult(None)
            Closure.warning_cache.add(SKIPPED)
            if ends_window and self.trainer.world_size > 1:
                self._exchange_gradients()
        return _EndOfWindow() if ends_window and result.closure_loss is None else result

    def _exchange_gradients(self) -> None:
        """Average the gradients over all devices, as DDP does in the backward pass of a window's last batch."""
        for parameter in self.trainer.lightning_module.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.trainer.world_size

    def run(self, optimizer: torch.optim.Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Train on a batch, and make the step if it is the last of its window."""
        result = super().run(optimizer, batch_idx, kwargs)
        self.is_open = self.trainer.fit_loop._should_accumulate()
        return result

    def _optimizer_step(self, batch_idx: int, train_step_and_backward_closure: Callable[[], Any]) -> None:
        """Make the step of a window.

        Raises:
            LrflowError: the optimizer or the module did not evaluate the closure.
        """
        step = self.trainer.global_step
        super()._optimizer_step(batch_idx, train_step_and_backward_closure)
        if getattr(train_step_and_backward_closure, "_result", self) is None:
            raise not_evaluated(self.trainer, step)

    def close(self, batch_idx: int) -> None:
        """Make the step of a window whose last batches are missing, with the gradients collected so far.

        Raises:
            LrflowError: there are several devices, which exchange gradients in the backward pass of the last batch.
        """
        if self.trainer.world_size > 1:
            raise LrflowError(
                f"step {self.trainer.global_step}: the last batch of an accumulation window was None or skipped, and "
                "several devices exchange their gradients in its backward pass: give every window its last batch"
            )
        self.is_open = False
        self._optimizer_step(batch_idx, lambda: _EndOfWindow().loss)

    def _make_zero_grad_fn(self, batch_idx: int, optimizer: torch.optim.Optimizer) -> Callable[[], None] | None:
        """Return the function that clears the previous step's gradients; None after the first batch of a window."""
        if self.is_open:
            return None
        return super()._make_zero_grad_fn(batch_idx - batch_idx % self.trainer.accumulate_grad_batches, optimizer)


class WindowMean(Callback):
    """Scales the gradients of a short accumulation window to the mean over its batches.

    Lightning (2.6.6) divides every loss by the number of batches of a full window. A window is short at the end of an
    epoch that does not divide evenly, and if `training_step` skips a batch. Full windows are unchanged, bit for bit.
    The callback has to come before those that read gradients.

    """

    def __init__(self) -> None:
        self._batches = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start with a new window, also after a rollback within one."""
        self._batches = 0

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Count a batch with a loss."""
        self._batches += 1

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Scale the gradients of a short window."""
        batches, self._batches = self._batches, 0
        accumulate: int = trainer.accumulate_grad_batches
        if not 0 < batches < accumulate or trainer.strategy.handles_gradient_accumulation:
            return
        weight = accumulate / batches
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.requires_grad:  # of a second-order optimizer
                    parameter.grad = parameter.grad * weight
                elif parameter.grad is not None:
                    parameter.grad.mul_(weight)

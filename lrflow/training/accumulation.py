"""Gradients of an optimizer step as the mean over the batches that are really in its window."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback


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

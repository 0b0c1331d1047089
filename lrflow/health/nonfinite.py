"""A run that is no longer finite: found within one reading of the signals, and never saved."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from lrflow.config.run_schema import Action
from lrflow.errors import DivergedError
from lrflow.training.monitor import Monitor
from lrflow.training.signals import Block

log = logging.getLogger("lrflow")

_DATA = "it was so from the first step: look for NaN or infinite values in the data"
_LR = (
    "the LR is likely too high, or a batch holds NaN: try a tenth of it, a longer warmup or trainer.gradient_clip_val=1"
)


class NonFinite(Monitor):
    """Ends a run, or warns once, at the first step whose loss, gradient norm or weights are not finite.

    In half precision, where a gradient scaler skips steps, single infinite gradients are left alone.

    Args:
        action: `stop` raises a `DivergedError`, `warn` logs one warning, `ignore` does nothing.
    """

    def __init__(self, action: Action = "stop") -> None:
        self._action = action

    @property
    def active(self) -> bool:
        """Whether it does anything."""
        return self._action != "ignore"

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Look at the loss and the gradient norm of each step.

        Raises:
            DivergedError: `action` is `stop` and a step is not finite.
        """
        if self._action == "ignore":
            return
        finite = np.isfinite(block.loss) | block.skipped
        if not str(trainer.precision).startswith("16"):
            finite &= np.isfinite(block.grad_norm)
        if finite.all():
            return
        at = int(np.argmin(finite))
        loss, norm = block.loss[at], block.grad_norm[at]
        what = f"the gradient norm is {norm}" if np.isfinite(loss) else f"the loss is {loss}"
        rates = ", ".join(f"{rate:.3g}" for rate in sorted({*block.actual[at].tolist()}))
        step = block.first + at
        self._act(f"step {step}: {what}, at LR {rates}", _DATA if step == 0 else _LR)

    def before_save(self, trainer: pl.Trainer) -> None:
        """Look at the weights: the last step may have broken them.

        Raises:
            DivergedError: `action` is `stop` and they are not finite.
        """
        if self._action == "ignore":
            return
        groups = trainer.optimizers[0].param_groups
        weights = [parameter.detach() for group in groups for parameter in group["params"]]
        if not math.isfinite(float(torch.stack(torch._foreach_norm(weights, math.inf)).max())):
            self._act(f"after {trainer.global_step} steps: the weights are not finite", _LR)

    def state_dict(self) -> dict[str, Any]:
        """Whether it has warned."""
        return {"action": self._action} if self._action == "ignore" else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn no second time in a resumed run."""
        if self._action == "warn":
            self._action = state_dict["action"]

    def _act(self, message: str, hint: str) -> None:
        if self._action == "stop":
            raise DivergedError(f"{message}\n    {hint}")
        log.warning("%s; %s", message, hint)
        self._action = "ignore"

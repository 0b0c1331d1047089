"""A loss that is no longer a number: found within one reading of the signals, before it can be saved."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import numpy.typing as npt

from lrflow.errors import LrflowError

log = logging.getLogger("lrflow")


class DivergedError(LrflowError):
    """The run's loss or gradients are no longer finite."""


class NonFinite:
    """Ends a run, or warns once, at the first step whose loss or gradient norm is not finite.

    Args:
        action: `stop` raises, `warn` says it once, `ignore` does nothing.
        skipped_steps: whether gradients may be infinite now and then without harm, as under a gradient scaler.
    """

    def __init__(self, action: Literal["stop", "warn", "ignore"] = "stop", skipped_steps: bool = False) -> None:
        self._action = action
        self._skipped_steps = skipped_steps

    def watch(
        self,
        first: int,
        loss: npt.NDArray[np.float64],
        grad_norm: npt.NDArray[np.float64],
        lr: npt.NDArray[np.float64],
    ) -> None:
        """Look at the signals of consecutive steps.

        Args:
            first: the first step.
            loss: [n]; not a number too where a step was skipped, which its gradient norm of 0 tells.
            grad_norm: [n].
            lr: what the optimizer used, [n, groups].

        Raises:
            DivergedError: `action` is `stop` and a step is not finite.
        """
        if self._action == "ignore":
            return
        # A step whose batches the module all skipped has neither a loss nor a gradient.
        finite = np.isfinite(loss) | (grad_norm == 0.0)
        if not self._skipped_steps:
            finite &= np.isfinite(grad_norm)
        if finite.all():
            return
        at = int(np.argmin(finite))
        what = f"the loss is {loss[at]}" if not np.isfinite(loss[at]) else f"the gradient norm is {grad_norm[at]}"
        rates = ", ".join(f"{rate:.3g}" for rate in sorted({*lr[at].tolist()}))
        message = f"step {first + at}: {what}, at LR {rates}"
        if first + at == 0:
            hint = "it was so from the first step: look for NaN or infinite values in the data"
        else:
            hint = "the LR is likely too high: try a tenth of it, a longer warmup or trainer.gradient_clip_val=1"
        if self._action == "stop":
            raise DivergedError(f"{message}\n    {hint}")
        log.warning("%s; %s", message, hint)
        self._action = "ignore"

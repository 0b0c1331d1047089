"""A run that is no longer finite: found within one reading of the signals, and never saved."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import numpy.typing as npt

from lrflow.errors import DivergedError

log = logging.getLogger("lrflow")

_DATA = "it was so from the first step: look for NaN or infinite values in the data"
_LR = (
    "the LR is likely too high, or a batch holds NaN: try a tenth of it, a longer warmup or trainer.gradient_clip_val=1"
)


class NonFinite:
    """Ends a run, or warns once, at the first step whose loss, gradient norm or weights are not finite.

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
        skipped: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Look at the signals of consecutive steps.

        Args:
            first: the first step.
            loss: [n].
            grad_norm: [n].
            lr: what the optimizer used, [n, groups].
            skipped: whether a step has no loss; [n]. None: every step has one.

        Raises:
            DivergedError: `action` is `stop` and a step is not finite.
        """
        if self._action == "ignore":
            return
        finite = np.isfinite(loss)
        if skipped is not None:
            finite |= skipped
        if not self._skipped_steps:
            finite &= np.isfinite(grad_norm)
        if finite.all():
            return
        at = int(np.argmin(finite))
        what = f"the loss is {loss[at]}" if not np.isfinite(loss[at]) else f"the gradient norm is {grad_norm[at]}"
        rates = ", ".join(f"{rate:.3g}" for rate in sorted({*lr[at].tolist()}))
        message = f"step {first + at}: {what}, at LR {rates}"
        self._act(message, _DATA if first + at == 0 else _LR)

    def weigh(self, steps: int, largest: float) -> None:
        """Look at the weights before they are saved: the last step may have broken them.

        Args:
            steps: that were made.
            largest: the largest absolute value among the weights.

        Raises:
            DivergedError: `action` is `stop` and it is not finite.
        """
        if self._action != "ignore" and not np.isfinite(largest):
            self._act(f"after {steps} steps: the weights are not finite", _LR)

    def _act(self, message: str, hint: str) -> None:
        if self._action == "stop":
            raise DivergedError(f"{message}\n    {hint}")
        log.warning("%s; %s", message, hint)
        self._action = "ignore"

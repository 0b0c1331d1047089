"""The monitor that ends or reports a run whose loss, gradients or weights are not finite."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl

from lrflow.config.schemas.health import Action
from lrflow.errors import DivergedError
from lrflow.finding import Finding
from lrflow.training.block import Block
from lrflow.training.finite import are_finite
from lrflow.training.monitor import Monitor
from lrflow.wording import counted, joined, number

log = logging.getLogger("lrflow")

_DATA = "it was so from the first step: look for NaN or infinite values in the data"
_LR = "the LR is likely too high, or a batch holds NaN: try a tenth of it, clip=norm or health=recover"


class NonFinite(Monitor):
    """Ends a run, or warns once, at the first step whose loss, gradient norm or weights are not finite.

    In half precision infinite gradients are ignored: the gradient scaler skips those steps. So are steps that a guard
    skips. Weights, buffers, averages of the weights and the optimizer's state are checked before each checkpoint, so a
    broken state is never saved.

    Args:
        action: `stop` raises a `DivergedError`, `warn` logs one warning, `ignore` does nothing.
    """

    def __init__(self, action: Action = "stop") -> None:
        self._action = action

    @property
    def active(self) -> bool:
        """Whether `action` is anything but `ignore`."""
        return self._action != "ignore"

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Check the loss and the gradient norm of each step.

        Raises:
            DivergedError: `action` is `stop` and a step is not finite.
        """
        if self._action == "ignore":
            return
        finite = np.isfinite(block.loss) | block.skipped
        if not str(trainer.precision).startswith("16"):
            finite &= np.isfinite(block.grad_norm)
        if block.clip is not None:
            finite |= block.clip == 0  # a guard skipped the step
        if finite.all():
            return
        at = int(np.argmin(finite))
        loss, norm = block.loss[at], block.grad_norm[at]
        what = f"the gradient norm is {norm}" if np.isfinite(loss) else f"the loss is {loss}"
        rates = ", ".join(f"{rate:.3g}" for rate in sorted({*block.actual[at].tolist()}))
        step, hint = int(block.first + at), _DATA if block.first + at == 0 else _LR
        evidence = {"loss": float(loss), "grad_norm": float(norm), "lr": float(block.actual[at].max())}
        self._record(trainer, step, what, evidence)
        if not self._rolls_back(trainer, step, what, gradient_only=bool(np.isfinite(loss))):
            self._respond(f"step {step}: {what}, at LR {rates}", hint)

    def before_save(self, trainer: pl.Trainer) -> None:
        """Check the weights, which the last step may have made infinite or NaN.

        Raises:
            DivergedError: `action` is `stop` and a weight is not finite.
        """
        if self._action == "ignore":
            return
        groups = trainer.optimizers[0].param_groups
        weights = [parameter.detach() for group in groups for parameter in group["params"]]
        if not all(are_finite(weights)):
            what, steps = "the weights are not finite", trainer.global_step
            self._record(trainer, steps - 1, what, {})
            if not self._rolls_back(trainer, steps - 1, what):
                self._respond(f"after {counted(steps, 'step')}: {what}", _LR)

    def on_not_finite(self, trainer: pl.Trainer, names: Sequence[str]) -> None:
        """End the run rather than save such a state.

        Raises:
            DivergedError: `action` is `stop`.
        """
        if self._action != "stop":
            return
        what, steps = f"not finite: {joined(names, 5)}", trainer.global_step
        self._record(trainer, steps - 1, what, {})
        if not self._rolls_back(trainer, steps - 1, what):
            self._respond(f"after {counted(steps, 'step')}: {what}", _LR)

    def _record(self, trainer: pl.Trainer, step: int, what: str, evidence: dict[str, float]) -> None:
        if run := getattr(self, "run", None):
            is_lr = step > 0 and not getattr(trainer, "rollback", None)  # else it is the data, or is being cured
            remedy = f"health=recover, or optimizer.lr={number(run.lr / 10)}" if is_lr else ""
            run.findings.record(trainer, Finding(self.name, step + 1, step, what, evidence, 1.0, remedy))

    def _rolls_back(self, trainer: pl.Trainer, step: int, what: str, gradient_only: bool = False) -> bool:
        """Request a rollback if the run can make one, and return whether it can."""
        rollback = getattr(trainer, "rollback", None) if self._action == "stop" else None
        if rollback is not None:
            rollback.request(step, what, not_finite=True, gradient_only=gradient_only)
        return rollback is not None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the checkpoint: whether it has warned already."""
        return {"action": self._action} if self._action == "ignore" else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, so that a resumed run does not warn a second time."""
        if self._action == "warn":
            self._action = state_dict["action"]

    def _respond(self, message: str, hint: str) -> None:
        if self._action == "stop":
            raise DivergedError(f"{message}\n    {hint}")
        log.warning("%s; %s", message, hint)
        self._action = "ignore"

"""Leaving out the batches of steps: of known ones, and of those that turn out not to be finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch.utils._pytree import tree_leaves

from lrflow.clip import Gradients
from lrflow.optimizers.routed import member_optimizers
from lrflow.optimizers.traits import traits_of
from lrflow.wording import counted

if TYPE_CHECKING:
    from pytorch_lightning.loops.optimization.automatic import ClosureResult

PATIENCE = 8
"""Least number of steps in a row without a finite loss or gradient, although the batches are finite, after which the
weights may be the cause; twice the interval of the snapshots if that is more, and ten times as many once batches are
known to be."""


class BatchGuard:
    """Leaves out batches after a rollback: as if `training_step` returned None for them.

    A step whose batches are all left out, or whose gradient is not finite, makes no update, and the state of the module
    stays as it was. What is left out is the same on every device. Each check waits for the device, so the guard is off
    until a rollback. Once it has found a batch at fault it stays on, since later epochs have its examples in other
    batches; else it ends some time after the last loss that was not finite.

    Args:
        rollback: the `lrflow.training.rollback.Rollback` that it belongs to, which records the steps and gets requests.
    """

    def __init__(self, rollback: Any) -> None:
        self._rollback = rollback
        self._until: float = 0  # infinite once a batch at fault was found
        self._in_a_row, self._is_certain = 0, False
        self._by_gradient = False  # whether it was the gradient of the last step of the row, and its loss was finite
        self._first: tuple[int, list[tuple[torch.Tensor, torch.Tensor]]] = -1, []  # a step, and the buffers before it
        self._failed = -1  # the last step that counts in the row
        self._steps: set[int] = set()

    def begin(self, until: float, steps: Iterable[int], is_certain: bool) -> None:
        """Check batches up to a step, and leave out those of further steps, whatever they hold."""
        self._is_certain |= is_certain
        self._until, self._in_a_row = max(self._until, until), 0
        self._steps |= set(steps)

    @property
    def is_failing(self) -> bool:
        """Whether the last step was left out because its loss or gradient was not finite, perhaps for the weights."""
        return self._in_a_row > 0

    def is_active(self, trainer: pl.Trainer) -> bool:
        """Whether the batches of this step are checked, or some steps are left out."""
        return trainer.global_step < self._until or trainer.global_step in self._steps

    def leaves_out(self, trainer: pl.Trainer, batch: Any) -> bool:
        """Whether to leave out a batch, known by its step or by what it holds."""
        step = trainer.global_step
        if step in self._steps:
            self._rollback.note_skipped(step)
            return True
        if step >= self._until:
            return False
        inputs = [one for one in tree_leaves(batch) if isinstance(one, torch.Tensor) and one.is_floating_point()]
        if _agreed(trainer, not inputs or bool(torch.stack([one.isfinite().all() for one in inputs]).all())):
            return False
        self._rollback.note_skipped(step)
        self._until = math.inf
        return True

    def train(self, trainer: pl.Trainer, batch: Any, train: Callable[[], ClosureResult]) -> ClosureResult | None:
        """Compute the loss of a batch; None if it is left out.

        Args:
            trainer: of the run.
            batch: on the device.
            train: computes the loss.
        """
        if self.leaves_out(trainer, batch):
            return None
        buffers = [(one, one.clone()) for one in trainer.lightning_module.buffers()]
        if self._first[0] != trainer.global_step:
            self._first = trainer.global_step, buffers
        result = train()
        loss = result.closure_loss
        if _agreed(trainer, loss is None or bool(loss.detach().isfinite().all())):
            if not self._by_gradient:
                self._end_row()
            return result
        self._fail(trainer.global_step, buffers, by_gradient=False)
        return None

    def check_gradient(self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradient of a step if it is not finite, so that the optimizer changes nothing.

        Not with manual optimization, whose optimizers step one after the other, with a line search, which needs the
        gradient of each evaluation, and in float16, where the scaler of the loss skips such steps.

        Args:
            trainer: of the run.
            optimizer: of the step; the gradient is that of the whole accumulation window, averaged over all devices.
        """
        step = trainer.global_step
        searches = any(traits_of(type(one)).line_search for one in member_optimizers(optimizer).values())
        is_checked = self._first[0] == step < self._until and trainer.lightning_module.automatic_optimization
        if not is_checked or searches or str(trainer.precision).startswith("16"):
            return
        gradients = Gradients((), [one for group in optimizer.param_groups for one in group["params"]])
        if _agreed(trainer, not gradients or bool(gradients.norm.isfinite())):
            if self._by_gradient:
                self._end_row()
            return
        gradients.drop()
        self._fail(step, self._first[1], by_gradient=True)

    def _end_row(self) -> None:
        """Note that a step is finite: its weights are those of the row, so the batches of the row were at fault."""
        if self._in_a_row:
            self._until = math.inf
        self._in_a_row, self._by_gradient = 0, False

    def _fail(self, step: int, buffers: Iterable[tuple[torch.Tensor, torch.Tensor]], by_gradient: bool) -> None:
        """Restore buffers, count the step, and ask for a rollback once there are too many of them in a row."""
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        self._rollback.note_skipped(step)
        self._until = max(self._until, step + 1 + self._rollback.every)
        self._by_gradient = by_gradient
        if step != self._failed or not self._in_a_row:
            self._failed = step
            self._in_a_row += 1
            if self._in_a_row == self._patience:
                since, what = step - self._patience + 1, "gradient" if by_gradient else "loss"
                self._rollback.request(since, f"no {what} of {counted(self._patience, 'step')} was finite", step=step)

    @property
    def _patience(self) -> int:
        return max(PATIENCE, 2 * self._rollback.every) * (10 if self._is_certain else 1)

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "until": self._until,
            "in_a_row": self._in_a_row,
            "by_gradient": self._by_gradient,
            "steps": sorted(self._steps),
            "is_certain": self._is_certain,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self._until, self._in_a_row, self._steps = state["until"], state["in_a_row"], set(state["steps"])
        self._is_certain, self._by_gradient = state["is_certain"], state.get("by_gradient", False)


def _agreed(trainer: pl.Trainer, own: bool) -> bool:
    """Whether a condition holds on every device."""
    return own if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(own))

"""pytorch-optimizer's SPAM and Stable-SPAM with all of their state where checkpoints and routes keep it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_optimizer

__all__ = ["SPAM", "StableSPAM"]


class SPAM(pytorch_optimizer.SPAM):
    """Adam that limits spikes of the gradient and resets its moments (Huang et al., 2025, arXiv 2501.06842).

    A value whose square is above `threshold` times its second moment is reduced to that limit. At every
    `update_proj_gap`-th step, the moments begin again at zero, and the next `warmup_epoch` steps are multiplied by a
    factor that rises from 0.01 to 1 along a cosine. The plan does not show this factor; `lr_effective` in the metrics
    includes it.

    The library (4.1) keeps its counters outside of the groups, where routes and changed layer rules lose them, and
    draws random numbers for masks even if they select everything. Here the counters follow from the number of steps in
    each group, and there are no masks.

    Args:
        params: parameters or groups of them.
        lr: peak LR.
        betas: decay rates of the moments.
        weight_decay: decoupled weight decay, multiplied by the LR.
        warmup_epoch: number of steps of the warmup after a reset; 0: none.
        threshold: the largest ratio of a squared gradient to its second moment; 0: no limit.
        grad_accu_steps: number of steps after a reset before the limit applies.
        update_proj_gap: number of steps between resets.
        eps: added to the denominator.
        maximize: whether to climb.
        foreach: as in `pytorch_optimizer.SPAM`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup_epoch: int = 150,
        threshold: float = 5000,
        grad_accu_steps: int = 20,
        update_proj_gap: int = 500,
        eps: float = 1e-6,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, 1.0, weight_decay, warmup_epoch, threshold, grad_accu_steps, update_proj_gap, eps,
            maximize, foreach, step=0, factor=1.0,
        )  # fmt: skip
        self.warmup = self  # whose `get_death_rate` the library asks for
        self.state.clear()

    def init_masks(self) -> None:
        """Make no masks: every weight is trained."""

    def get_death_rate(self, current_step: int) -> float:
        """Return by how much a step is shortened, a share, given the number of steps since the last reset."""
        if current_step >= self.warmup_epoch:
            return 0.0
        return 0.99 * (1 + math.cos(math.pi * (current_step + 1) / (self.warmup_epoch + 1))) / 2

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step.

        Args:
            closure: evaluates the model and returns the loss.
        """
        done = max(group["step"] for group in self.param_groups)
        self.state.update({"total_step": done, "current_step": self._since_reset(done)})
        try:
            return super().step(closure)
        finally:
            for name in ("total_step", "current_step"):
                self.state.pop(name)
            for group in self.param_groups:
                group["factor"] = 1 - self.get_death_rate(self._since_reset(done + 1))  # of the next step

    def state_dict(self) -> dict[str, Any]:
        """Return the groups and the moments."""
        return super(pytorch_optimizer.SPAM, self).state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super(pytorch_optimizer.SPAM, self).load_state_dict(state_dict)

    def _since_reset(self, done: int) -> int:
        """Return the number of steps between the last reset and the step after `done` ones; many before any reset."""
        return (done + 1) % self.update_proj_gap if done + 1 >= self.update_proj_gap else self.warmup_epoch


class StableSPAM(pytorch_optimizer.StableSPAM):
    """Adam whose gradients are limited and scaled by their own history (Huang et al., 2025, arXiv 2502.17055).

    Values above a moving average of the largest ones are reduced to it, the norm of each tensor's gradient is scaled by
    its moments, and at every `update_proj_gap`-th step the moments of Adam begin again at zero, with their correction.
    No step is multiplied by anything else than the LR.

    The library (4.1) keeps its counter outside of the groups, where routes and changed layer rules lose it.

    Args:
        params: parameters or groups of them.
        lr: peak LR.
        betas: decay rates of the moments.
        gamma1: decay rate of the mean norm.
        gamma2: decay rate of the mean squared norm.
        theta: decay rate of the largest value.
        weight_decay: decoupled weight decay, multiplied by the LR.
        update_proj_gap: number of steps between resets.
        eps: added to the denominators.
        maximize: whether to climb.
        foreach: whether tensors are updated without waiting for the device; None: where possible.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        gamma1: float = 0.7,
        gamma2: float = 0.9,
        theta: float = 0.999,
        weight_decay: float = 0.0,
        update_proj_gap: int = 1000,
        eps: float = 1e-8,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, gamma1, gamma2, theta, None, 1.0, weight_decay, update_proj_gap, eps, maximize, foreach,
            step=0, total_step=0,
        )  # fmt: skip

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step.

        Args:
            closure: evaluates the model and returns the loss.
        """
        self.total_step = max(group["total_step"] for group in self.param_groups)
        loss = super().step(closure)
        for group in self.param_groups:
            group["total_step"] = self.total_step
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the groups and the moments."""
        return super(pytorch_optimizer.StableSPAM, self).state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super(pytorch_optimizer.StableSPAM, self).load_state_dict(state_dict)

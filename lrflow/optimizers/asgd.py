"""Averaged SGD that is evaluated at its average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ASGD(torch.optim.ASGD):
    """SGD that averages its weights (Polyak and Juditsky, 1992): torch's, with two changes.

    torch uses the LR of the previous step, and keeps the average in its state without using it. Here a step uses its
    own LR, and `eval()` and `train()` put the average into the model and back, as in schedule-free optimizers.

    Args:
        params: parameters or groups of them.
        lr: peak LR; the step size is lr / (1 + lambd lr t)^alpha.
        lambd: rate of that decay, and of a decay of the weights by the same factor; 0 leaves the LR to the schedule.
        alpha: power of that decay.
        t0: steps before averaging begins.
        weight_decay: L2 penalty, added to the gradient.
        foreach: as in `torch.optim.ASGD`.
        maximize: as in `torch.optim.ASGD`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.1,
        lambd: float = 0.0,
        alpha: float = 0.75,
        t0: float = 0,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, lambd, alpha, t0, weight_decay, foreach, maximize)
        for group in self.param_groups:
            group["averaged"] = False
        self.defaults["averaged"] = False

    def eval(self) -> None:
        """Put the average into the model."""
        self._exchange(averaged=True)

    def train(self) -> None:
        """Put the weights that are trained into the model."""
        self._exchange(averaged=False)

    def _exchange(self, averaged: bool) -> None:
        for group in self.param_groups:
            if group["averaged"] != averaged:
                group["averaged"] = averaged
                for parameter in group["params"]:
                    if state := self.state.get(parameter):
                        other = state["ax"].clone()
                        state["ax"].copy_(parameter.detach())
                        parameter.detach().copy_(other)

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        is_complex: bool = super()._init_group(group, *lists)
        *_, etas, steps = lists
        for eta, step in zip(etas, steps, strict=True):
            eta.copy_(group["lr"] / (1 + group["lambd"] * group["lr"] * step) ** group["alpha"])
        return is_complex

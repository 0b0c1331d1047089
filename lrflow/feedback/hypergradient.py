"""Hypergradient descent: the LR follows the sign and size of its own gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lrflow.feedback.feedback import StepFeedback, on_cpu, refuse, wide
from lrflow.feedback.limits import LIMITS
from lrflow.limits import outside
from lrflow.schedules import Horizon
from lrflow.schedules.durations import DurationLike


class Hypergradient(StepFeedback):
    """Raises the LR while each step still goes down the next gradient, lowers it where steps go back and forth.

    The multiplicative rule of Baydin et al. (2018, arXiv 1703.04782, section 3): with g the gradient and u the
    direction of the update before it, the LR is multiplied by `1 + beta * cos(g, u)` at each step. For plain SGD u is
    the gradient before, and with `every: 1` this is their rule. Where it departs:

    - u is taken from what the weights really did, so that it holds for every optimizer, with momentum, weight decay,
      clipping and groups of different LRs. For Adam, theirs takes the update without weight decay.
    - The plan goes on beside it: it is the factor on the plan that is adapted, between bounds.
    - With `every` above 1, the moves of so many steps are made at once, so that the device is waited for only then.

    In mini-batches, consecutive gradients disagree near the bottom whatever the LR is, and the factor falls earlier
    than is good for the end of the run (the bias of a short horizon: Wu et al., 2018, arXiv 1803.02021).

    It costs a copy of the weights, in memory and in each checkpoint.

    Args:
        beta: the largest share by which one step moves the factor; above 0 and below 1.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration; None: 10 steps.

    Raises:
        ConfigError: values out of range.
    """

    told_from: ClassVar[float] = 2.0

    def __init__(
        self,
        beta: float = 0.02,
        min_factor: float = 0.01,
        max_factor: float = 100.0,
        every: DurationLike | None = None,
    ) -> None:
        refuse(outside(LIMITS["Hypergradient"], locals(), "feedback"))
        super().__init__(min_factor, max_factor, 10 if every is None else every)
        self._beta = beta
        self._before: list[Tensor] | None = None  # the weights before the last step
        self._move = torch.ones((), dtype=torch.float64)  # of the steps since the last look
        self._steps = 0  # since the last look

    def describe(self) -> str:
        """What it does, in one line."""
        return f"hypergradient: x(1 + {self._beta:g} cos(gradient, last update)) each step, applied every {self._every}"

    def watch(self, parameters: Sequence[nn.Parameter], horizon: Horizon) -> None:
        """Begin, or go on; see `StepFeedback`."""
        self._parameters, self._interval = list(parameters), self.interval(horizon)
        device = self._parameters[0].device
        self._move = self._move.to(device, wide(device))
        if self._before is not None:
            if [tensor.shape for tensor in self._before] != [parameter.shape for parameter in self._parameters]:
                raise ValueError("the weights before the last step are those of other parameters")
            pairs = zip(self._before, self._parameters, strict=True)
            self._before = [tensor.to(parameter, copy=True) for tensor, parameter in pairs]

    def observe(self, lr: float) -> float | None:
        """Compare the gradient with the last step; the factor moves at the end of an interval."""
        weights = [parameter.detach() for parameter in self._parameters]
        if self._before is None:
            self._before = [weight.clone() for weight in weights]
            return None
        self._move *= 1.0 + self._beta * self._cosine(weights, self._before)
        torch._foreach_copy_(self._before, weights)
        self._steps += 1
        if self._steps < self._interval:
            return None
        move = self._move.item()
        self._move.fill_(1.0)
        self._steps = 0
        self.multiply(move)
        return move

    def state_dict(self) -> dict[str, Any]:
        """The factor, the weights before the last step, and what was gathered since the last look."""
        before = None if self._before is None else on_cpu(self._before)
        return {"factor": self.factor, "before": before, "move": self._move.item(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`; `watch` has to follow."""
        self._before, self._steps = state["before"], state["steps"]
        self._move = torch.tensor(state["move"], dtype=torch.float64)
        self.set(state["factor"])

    def _cosine(self, weights: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
        """Between the gradient and the way that the last step came, uphill; 0 where either is nothing."""
        pairs = [
            (parameter.grad, old - now)
            for parameter, now, old in zip(self._parameters, weights, before, strict=True)
            if parameter.grad is not None
        ]
        if not pairs:
            return torch.zeros_like(self._move)
        gradients = [(grad.to_dense() if grad.is_sparse else grad).detach() for grad, _ in pairs]
        ways = [way for _, way in pairs]
        dot = torch.stack([(grad * way).sum() for grad, way in zip(gradients, ways, strict=True)]).sum()
        norms = [torch.linalg.vector_norm(torch.stack(torch._foreach_norm(of))) for of in (gradients, ways)]
        # A step that a gradient scaler skipped has no way, and its gradients are not finite.
        return (dot / (norms[0] * norms[1])).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0).to(self._move.dtype)

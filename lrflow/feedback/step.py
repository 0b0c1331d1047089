"""Feedback that reacts to gradients and weights at every step: Hypergradient and SASA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from lrflow.feedback.feedback import StepFeedback, cpu_copies, raise_problems, widest_float
from lrflow.feedback.limits import LIMITS
from lrflow.limits import outside
from lrflow.schedules import Horizon
from lrflow.schedules.time import DurationLike, Floats


class Hypergradient(StepFeedback):
    """Raises the LR while gradients agree with the previous update, lowers it while they oppose it.

    The multiplicative rule of Baydin et al. (2018, arXiv 1703.04782, section 3): with g the gradient and u the
    direction of the previous update, the LR is multiplied by `1 + beta * cos(g, u)` at each step. For plain SGD u is
    the previous gradient, and with `every: 1` this is their rule. The differences:

    - u is computed from the change of the weights, so that it holds for every optimizer, with momentum, weight decay,
      clipping and groups of different LRs. For Adam, theirs is the update without weight decay.
    - The factor on the plan is adapted, within bounds; the plan itself continues.
    - With `every` above 1, the changes of that many steps are applied at once, to synchronise with the device less
    often.

    The gradients of consecutive mini-batches disagree near the minimum at any LR, so the factor falls earlier than is
    good for the end of the run (short-horizon bias: Wu et al., 2018, arXiv 1803.02021).

    It needs a copy of the weights, in memory and in each checkpoint.

    Args:
        beta: the largest relative change of the factor per step; above 0 and below 1.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration; None: 10 steps.

    Raises:
        ConfigError: values out of range.
    """

    log_ratio: ClassVar[float] = 2.0

    def __init__(
        self,
        beta: float = 0.02,
        min_factor: float = 0.01,
        max_factor: float = 100.0,
        every: DurationLike | None = None,
    ) -> None:
        raise_problems(outside(LIMITS["Hypergradient"], locals(), "feedback"))
        super().__init__(min_factor, max_factor, 10 if every is None else every)
        self._beta = beta
        self._before: list[Tensor] | None = None  # the weights before the last step
        self._move = torch.ones((), dtype=torch.float64)  # product of the changes since the last update
        self._steps = 0  # since the last update

    def describe(self) -> str:
        """Describe the feedback in one line."""
        return f"hypergradient: x(1 + {self._beta:g} cos(gradient, last update)) each step, applied every {self._every}"

    def watch(self, parameters: Sequence[nn.Parameter], horizon: Horizon) -> None:
        """Start or continue; see `StepFeedback`."""
        self._parameters, self._interval = list(parameters), self.interval(horizon)
        device = self._parameters[0].device
        self._move = self._move.to(device, widest_float(device))
        if self._before is not None:
            if [tensor.shape for tensor in self._before] != [parameter.shape for parameter in self._parameters]:
                raise ValueError("the weights before the last step are those of other parameters")
            pairs = zip(self._before, self._parameters, strict=True)
            self._before = [tensor.to(parameter, copy=True) for tensor, parameter in pairs]

    def observe(self, lr: float) -> float | None:
        """Compare the gradient with the last update of the weights; move the factor at the end of an interval."""
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
        """Return the factor, the weights before the last step, and what was accumulated since the last update."""
        before = None if self._before is None else cpu_copies(self._before)
        return {"factor": self.factor, "before": before, "move": self._move.item(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; call `watch` afterwards."""
        self._before, self._steps = state["before"], state["steps"]
        self._move = torch.tensor(state["move"], dtype=torch.float64)
        self.set(state["factor"])

    def _cosine(self, weights: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
        """Return the cosine between the gradient and the negative last update; 0 if either is zero."""
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
        # After a step that a gradient scaler skipped, the update is zero and the gradients are not finite.
        return (dot / (norms[0] * norms[1])).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0).to(self._move.dtype)


class SASA(StepFeedback):
    """Multiplies the LR by `factor` when a statistical test finds the weights stationary.

    SASA+, the statistical part of SALSA (Zhang, Lang, Liu and Xiao, 2020, arXiv 2002.10597; after Lang, Xiao and Zhang,
    2019, arXiv 1909.09785). For any optimizer, a step is x' = x - lr d. Once the distribution of x no longer changes,
    the mean of |x|^2 does not either, so that E[<x, d> - lr/2 |d|^2] = 0. For one step that statistic is (|x|^2 -
    |x'|^2) / (2 lr), so only the norm of the weights is needed. Every `every` steps, the mean over the latest share
    `keep` of the steps since the last cut is tested. If its confidence interval contains 0, the LR is cut and the
    steps are counted from 0 again.

    The interval is Student's t with the variance of batch means (batches of sqrt(n) samples, since consecutive ones are
    correlated). As in the authors' code (microsoft/statopt), both halves of the samples must also have means of the
    same sign: when the norm turns from growing to shrinking, the mean passes 0 although nothing is stationary. The
    differences:

    - The degrees of freedom are the number of batches less one; their code uses the size of a batch less one, and by
      default (`var_mode='mb'`) treats the samples as independent.
    - The optimizer's momentum is kept at a cut; theirs is reset to zero.
    - The rise before it (their smoothed line search) is left out: use a schedule's warmup.
    - With several parameter groups `lr` is that of the first; the ratios of the others' LRs to it are part of d.

    The test assumes a constant LR: use it with `schedule=constant` (a warmup does no harm).

    Args:
        factor: of one cut; above 0 and below 1.
        significance: of the test; above 0 and below 1.
        keep: the share of the steps since the last cut, the latest ones, that is tested; above 0 and at most 1.
        min_samples: fewest steps that are tested; None: 1000, or an epoch if that is less.
        min_factor: lower bound of the factor, over all cuts.
        every: a duration; None: 100 steps, or an epoch if that is less.

    Raises:
        ConfigError: values out of range.
    """

    def __init__(
        self,
        factor: float = 0.1,
        significance: float = 0.05,
        keep: float = 0.125,
        min_samples: int | None = None,
        min_factor: float = 1e-3,
        every: DurationLike | None = None,
    ) -> None:
        raise_problems(outside(LIMITS["SASA"], locals(), "feedback"))
        super().__init__(min_factor, 1.0, every)
        self._cut, self._significance, self._keep, self._min_samples = factor, significance, keep, min_samples
        self._samples: Floats = np.empty(0)  # the latest ones
        self._count = 0  # samples since the last cut
        self._norms = torch.empty(0)  # squared norms of the weights before each step since the last test
        self._rates: list[float] = []  # the LRs of those steps
        self._last: list[float] | None = None  # norm and LR of the last step before them

    def interval(self, horizon: Horizon) -> int:
        """Return the steps between two tests."""
        if self._every is None:
            return min(100, horizon.steps_per_epoch or 100)
        return super().interval(horizon)

    def describe(self) -> str:
        """Describe the feedback in one line."""
        return (
            f"stationarity (SASA+): x{self._cut:g} once the weights' norm stays as it is, by a t test at "
            f"{self._significance:g} over the latest {self._keep:.4g} of the steps"
        )

    def watch(self, parameters: Sequence[nn.Parameter], horizon: Horizon) -> None:
        """Start or continue; see `StepFeedback`."""
        self._parameters = list(parameters)
        self._fewest = self._min_samples or max(4, min(1000, horizon.steps_per_epoch or 1000))
        device = self._parameters[0].device
        gathered = self._norms
        # If the interval became shorter, more norms may have been recorded than now lie between two tests.
        size = max(self.interval(horizon), len(gathered) + 1)
        self._norms = torch.zeros(size, dtype=widest_float(device), device=device)
        self._norms[: len(gathered)] = gathered

    def observe(self, lr: float) -> float | None:
        """Record the norm of the weights; test at the end of an interval."""
        each = torch._foreach_norm([weight.detach() for weight in self._parameters], 2, dtype=self._norms.dtype)
        self._norms[len(self._rates)] = torch.stack(each).square().sum()
        self._rates.append(lr)
        if len(self._rates) < len(self._norms):
            return None
        norms, rates = np.array(self._norms.tolist()), np.array(self._rates)
        self._rates = []
        if self._last is not None:
            norms, rates = np.append(self._last[0], norms), np.append(self._last[1], rates)
        self._last = [norms[-1].item(), rates[-1].item()]
        return self._take(norms, rates)

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, the latest samples and their count, and the norms that are not samples yet."""
        return {
            "factor": self.factor,
            "samples": torch.from_numpy(self._samples.copy()),
            "count": self._count,
            "norms": self._norms[: len(self._rates)].to("cpu", copy=True),
            "rates": list(self._rates),
            "last": self._last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; call `watch` afterwards."""
        self._samples, self._count = state["samples"].numpy(), state["count"]
        self._norms, self._rates, self._last = state["norms"], list(state["rates"]), state["last"]
        self.set(state["factor"])

    def _take(self, norms: Floats, rates: Floats) -> float | None:
        """Compute samples from the recorded norms, cut the LR if they are stationary, and return their mean."""
        moves = rates[:-1] > 0  # a step at LR 0 gives no sample
        samples = -np.diff(norms)[moves] / (2 * rates[:-1][moves])
        self._count += len(samples)
        kept = math.ceil(self._keep * self._count)
        self._samples = np.append(self._samples, samples)[-kept:] if kept else np.empty(0)
        if not kept:
            return None
        mean = self._samples.mean().item()
        if kept >= self._fewest and is_stationary(self._samples, self._significance):
            self.multiply(self._cut)
            self._samples, self._count = np.empty(0), 0
        return mean


def is_stationary(samples: Floats, significance: float) -> bool:
    """Whether the confidence interval of the mean of correlated samples contains 0, and both halves have one sign.

    Args:
        samples: in the order of time, at least 4; [n].
        significance: the share of stationary series whose interval does not contain 0.
    """
    size = math.isqrt(len(samples))
    batches = len(samples) // size
    used = samples[-size * batches :]
    mean, means = used.mean(), used.reshape(batches, size).mean(1)
    deviation = math.sqrt(size * np.square(means - mean).sum() / (batches - 1))
    half_width = stdtrit(batches - 1, 1 - significance / 2) * deviation / math.sqrt(len(used))
    first, second = np.array_split(used, 2)
    return bool(abs(mean) < half_width and first.mean() * second.mean() > 0)

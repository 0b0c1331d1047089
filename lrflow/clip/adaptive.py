"""Guards whose limits follow the norms of earlier steps: AdaGC for each parameter, ZClip for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lrflow.clip.clip import EPS, Clip, Gradients, check_arguments, clip_norm


class AdaGC(Clip):
    """Limits each parameter's gradient relative to a moving average of its norms (Wang et al., 2025, arXiv:2502.11034).

    In the first `warmup` steps all gradients together are scaled to a norm of at most `max_norm`, and γ is the smallest
    norm of the clipped gradient so far. Then each gradient is scaled to a norm of at most `ratio` · γ, and γ ←
    `beta` · γ + (1 - `beta`) · norm of the clipped gradient. Norms that are 0 or not finite leave γ unchanged: a limit
    of 0 would end the training of the parameter.

    Args:
        max_norm: largest norm of all gradients in the warmup; the paper's λ_abs.
        ratio: largest ratio of a norm to its average after it; the paper's λ_rel.
        beta: share of the average that a step keeps.
        warmup: number of steps before the averages are used.
    """

    def __init__(self, max_norm: float = 1.0, ratio: float = 1.05, beta: float = 0.98, warmup: int = 100) -> None:
        check_arguments(self, locals())
        self.max_norm, self.ratio, self.beta, self.warmup = max_norm, ratio, beta, warmup
        self._step = 0
        self._average: Tensor | None = None  # of each parameter of the run; infinite: no norm yet
        self._index: tuple[list[int], Tensor] | None = None  # the positions of the last step, as a tensor

    def __call__(self, gradients: Gradients) -> Tensor:
        """Clip the gradients of a step."""
        norms = gradients.norms
        if self._average is None:
            self._average = torch.full((len(self.names),), torch.inf, dtype=norms.dtype, device=norms.device)
        index = self._indices(gradients.positions, norms.device)
        average = self._average[index]
        if self._step < self.warmup:
            result = clip_norm(gradients, self.max_norm)
            clipped = norms * result
            moved = torch.minimum(average, clipped)
        else:
            factors = (self.ratio * average / norms).clamp(max=1.0)
            factors = torch.where(norms > 0, factors, 1.0)
            gradients.scale(factors)
            clipped = norms * factors
            moved = torch.where(average.isinf(), clipped, self.beta * average + (1 - self.beta) * clipped)
            result = gradients.shrunk(factors.min() < 1)
        self._average[index] = torch.where((norms > 0) & norms.isfinite(), moved, average)
        self._step += 1
        return result

    def _indices(self, positions: Sequence[int], device: torch.device) -> Tensor:
        """Return the positions as a tensor, which is made anew only when they change."""
        if self._index is None or self._index[0] != positions:
            self._index = list(positions), torch.tensor(positions, device=device)
        return self._index[1]

    def state_dict(self) -> dict[str, Any]:
        """Return the averages with the names of their parameters, and the number of steps."""
        return {"step": self._step, "average": self._average, "names": list(self.names)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages of the parameters that are still trained."""
        self._step, saved, self._average = state["step"], state["average"], None
        if saved is not None:
            place = {name: index for index, name in enumerate(state["names"])}
            saved = torch.cat([saved, saved.new_full((1,), torch.inf)])  # the last one: of a parameter without any
            self._average = saved[[place.get(name, -1) for name in self.names]]


class ZClip(Clip):
    """Clips the norm of all gradients if it is an outlier among those of earlier steps (Kumar et al., 2025).

    The norms have a moving average μ and a moving variance σ², which begin with those of the first `warmup` steps. A
    norm of more than μ + `threshold` · σ, with z = (norm - μ) / σ, is scaled to μ + `threshold`² / z · σ ("reciprocal
    clipping"). The averages take the clipped norm in: μ first, then the squared distance from the new μ.
    arXiv:2504.02507, section 3. Norms that are not finite are ignored.

    Args:
        threshold: the z-score beyond which is clipped.
        alpha: share of the averages that a step keeps.
        warmup: number of first steps that are only measured.
        max_norm: also limits the norm of every step; None: no such limit.
    """

    def __init__(
        self, threshold: float = 2.5, alpha: float = 0.97, warmup: int = 25, max_norm: float | None = None
    ) -> None:
        check_arguments(self, locals())
        self.threshold, self.alpha, self.warmup, self.max_norm = threshold, alpha, warmup, max_norm
        self._statistics: Tensor | None = None  # number of norms, mean, variance

    def __call__(self, gradients: Gradients) -> Tensor:
        """Clip the gradients of a step."""
        norm = gradients.norm
        if self._statistics is None:
            self._statistics = norm.new_zeros(3)
        count, mean, variance = self._statistics.unbind()
        deviation = variance.sqrt()
        score = (norm - mean) / (deviation + EPS)
        is_outlier = (count >= self.warmup) & (score > self.threshold) & norm.isfinite()
        limit = torch.where(is_outlier, mean + self.threshold**2 / score * deviation, norm)
        self._take(limit)
        if self.max_norm is not None:
            limit = limit.clamp(max=self.max_norm)
        factor = torch.where(limit < norm, limit / (norm + EPS), 1.0)
        gradients.scale(factor)
        return factor

    def _take(self, norm: Tensor) -> None:
        """Take a norm into the mean and the variance: of all norms in the warmup, exponential averages after it."""
        assert self._statistics is not None
        count, mean, variance = self._statistics.unbind()
        warm = count < self.warmup
        share = torch.where(warm, 1 / (count + 1), 1 - self.alpha)
        moved = mean + share * (norm - mean)
        # Welford's update of the mean squared distance; the exponential average takes the distance from the new mean.
        square = torch.where(warm, (norm - mean) * (norm - moved), (norm - moved).square())
        spread = variance + share * (square - variance)
        self._statistics = torch.where(norm.isfinite(), torch.stack([count + 1, moved, spread]), self._statistics)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics of the norms."""
        return {"statistics": self._statistics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the statistics of the norms."""
        self._statistics = state["statistics"]

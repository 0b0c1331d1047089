"""Guards whose limits do not depend on earlier steps: the norm, each value, and norms relative to the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrflow.clip.clip import EPS, Clip, Gradients, check_arguments, clip_norm
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.layers.rules import as_tuple, compile_pattern


class Norm(Clip):
    """Scales all gradients together to a norm of at most `max_norm` (Pascanu et al., 2013, arXiv:1211.5063).

    Args:
        max_norm: the largest norm.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        check_arguments(self, locals())
        self.max_norm = max_norm

    def __call__(self, gradients: Gradients) -> Tensor:
        """Clip the gradients of a step."""
        return clip_norm(gradients, self.max_norm)


class Value(Clip):
    """Limits each value of the gradients to the range from -`clip_value` to `clip_value`.

    Args:
        clip_value: the largest absolute value.
    """

    def __init__(self, clip_value: float = 1.0) -> None:
        check_arguments(self, locals())
        self.clip_value = clip_value

    def __call__(self, gradients: Gradients) -> Tensor:
        """Clip the gradients of a step."""
        largest = gradients.measure(torch.inf).max()
        _ = gradients.norm  # before they change
        torch._foreach_clamp_min_(gradients.values, -self.clip_value)
        torch._foreach_clamp_max_(gradients.values, self.clip_value)
        return gradients.shrunk(largest > self.clip_value)


class AGC(Clip):
    """Adaptive gradient clipping: limits gradients relative to the weights, unit by unit (Brock et al., 2021).

    A unit is a row of a matrix, a filter of a convolution, or a whole vector: the gradient G of a unit with the
    weights W is scaled to a norm of at most `clip_factor` · max(‖W‖, `eps`). arXiv:2102.06171, equation 3.

    Args:
        clip_factor: the largest ratio of the norms; the paper's λ.
        eps: smallest norm of weights, for units that are zero.
        exclude: globs (or regular expressions marked `re:`) over the names of parameters that are not clipped; the
            paper excludes the output layer.
    """

    def __init__(
        self, clip_factor: float = 0.01, eps: float = 1e-3, exclude: str | Sequence[str] | None = None
    ) -> None:
        check_arguments(self, locals())
        self.clip_factor, self.eps = clip_factor, eps
        self._patterns = {text: compile_pattern(text) for text in as_tuple(exclude)}
        self._excluded: frozenset[str] = frozenset()

    def begin(self, names: Sequence[str]) -> None:
        """Find the parameters that are not clipped.

        Raises:
            ConfigError: a pattern matches no parameter.
        """
        super().begin(names)
        found = {text: {name for name in names if one.fullmatch(name)} for text, one in self._patterns.items()}
        if problems := [
            Problem("clip.exclude", "matches no parameter that is trained", text, did_you_mean(text, names))
            for text, matched in found.items()
            if not matched
        ]:
            raise ConfigError(problems)
        self._excluded = frozenset().union(*found.values())

    def __call__(self, gradients: Gradients) -> Tensor:
        """Clip the gradients of a step.

        Raises:
            LrflowError: a gradient is sparse, so that its rows are not those of the weights.
        """
        clipped = [index for index, name in enumerate(gradients.names) if name not in self._excluded]
        if not clipped:
            return gradients.norm.new_ones(())
        values, weights = [], []
        for index in clipped:
            value, parameter = gradients.values[index], gradients.parameters[index]
            if value.shape != parameter.shape:
                raise LrflowError("clip=agc needs dense gradients\n    add the names of sparse ones to clip.exclude")
            values.append(value)
            weights.append(parameter.detach())
        _ = gradients.norm  # before they change
        limits = [_unit_norms(weight) for weight in weights]
        torch._foreach_clamp_min_(limits, self.eps)
        torch._foreach_mul_(limits, self.clip_factor)
        norms = [_unit_norms(value) for value in values]
        torch._foreach_clamp_min_(norms, EPS)
        torch._foreach_div_(limits, norms)
        torch._foreach_clamp_max_(limits, 1.0)
        torch._foreach_mul_(values, limits)
        return gradients.shrunk(torch.stack([factor.min() for factor in limits]).min() < 1)


def _unit_norms(tensor: Tensor) -> Tensor:
    """Return the norm of each unit of a tensor, in a shape by which the tensor can be multiplied."""
    if tensor.ndim < 2:
        return torch.linalg.vector_norm(tensor)
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)

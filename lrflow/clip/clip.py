"""The base class of guards, which clip the gradients of a step or skip it, and the gradients that they get."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrflow.clip.limits import LIMITS
from lrflow.errors import ConfigError
from lrflow.limits import outside

EPS = 1e-6
"""Added to a norm by which is divided, as torch's `clip_grad_norm_` does."""


class Gradients:
    """The gradients of a step: the mean over its accumulation window and all devices, without a loss scale.

    Args:
        names: of all parameters that the optimizer trains.
        parameters: these parameters.
        loss: returns the mean loss of the step over its window and all devices; all devices have to call it together.
            None: it is not asked for.

    Attributes:
        parameters: those that have a gradient.
        values: their gradients; those that are sparse as the values of their rows. A guard changes them in place.
    """

    def __init__(
        self, names: Sequence[str], parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor] | None = None
    ) -> None:
        self.values = [
            one.grad.detach() if one.grad.requires_grad else one.grad for one in parameters if one.grad is not None
        ]
        is_whole = len(self.values) == len(parameters)
        self.parameters = list(parameters) if is_whole else [one for one in parameters if one.grad is not None]
        for value in self.values:
            if value.is_sparse:
                self.values = [_values(one) for one in self.parameters]
                break
        self._places = None if is_whole else [index for index, one in enumerate(parameters) if one.grad is not None]
        self._names, self._loss = names, loss
        self._norms: Tensor | None = None
        self._norm: Tensor | None = None
        self._mean: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def positions(self) -> list[int]:
        """The positions of the parameters that have a gradient."""
        return list(range(len(self.parameters))) if self._places is None else self._places

    @property
    def names(self) -> list[str]:
        """The names of the parameters that have a gradient."""
        return [self._names[index] for index in self.positions]

    @property
    def norms(self) -> Tensor:
        """The norm of each gradient before any change; [parameters]."""
        if self._norms is None:
            self._norms = self.measure()
        return self._norms

    @property
    def norm(self) -> Tensor:
        """The norm of all gradients together before any change."""
        if self._norm is None:
            self._norm = torch.linalg.vector_norm(self.norms)
        return self._norm

    @property
    def loss(self) -> Tensor:
        """The mean loss of the step."""
        if self._mean is None:
            assert self._loss is not None
            self._mean = self._loss()
        return self._mean

    def measure(self, order: float = 2.0) -> Tensor:
        """Return the norm of each gradient as it is now; [parameters]."""
        return torch.stack(torch._foreach_norm(self.values, order))

    def scale(self, factors: Tensor) -> None:
        """Multiply the gradients by one factor, or each by its own."""
        torch._foreach_mul_(self.values, factors if factors.ndim == 0 else list(factors.unbind()))

    def drop(self) -> None:
        """Remove the gradients: the optimizer then changes neither weights nor its own statistics."""
        for parameter in self.parameters:
            parameter.grad = None
        self.values = []

    def shrunk(self, any_clipped: Tensor) -> Tensor:
        """Return the norm of the gradients as it is now, as a share of that before: exactly 1 if none is clipped."""
        share = torch.linalg.vector_norm(self.measure()) / self.norm
        return torch.where(any_clipped, share.clamp(max=1 - EPS), torch.ones_like(share))


class Clip(ABC):
    """Clips the gradients of a step, or skips the step. It works on tensors, so that no step waits for the device."""

    names: Sequence[str] = ()
    """The names of all parameters that the optimizer trains."""

    def begin(self, names: Sequence[str]) -> None:
        """Prepare for a run; called before its first step, and before a state is loaded.

        Args:
            names: of all parameters that the optimizer trains.

        Raises:
            ConfigError: a setting does not fit these parameters.
        """
        self.names = list(names)

    @abstractmethod
    def __call__(self, gradients: Gradients) -> Tensor:
        """Clip the gradients of a step in place, or drop them.

        Args:
            gradients: of the step; at least one.

        Returns:
            The factor by which their norm became smaller: 1 if nothing was clipped, 0 if the step is skipped. A number
            without dimensions, on the device of the gradients.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on, as plain data and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # most guards have no state
        """Replace the present state by that one, as in a rollback; its tensors are on the device of the run."""


def check_arguments(clip: Clip, arguments: Mapping[str, Any]) -> None:
    """Check the arguments of one of lrflow's guards.

    Raises:
        ConfigError: lists every argument outside its range.
    """
    limits = next(LIMITS[base.__name__] for base in type(clip).__mro__ if base.__name__ in LIMITS)
    if problems := outside(limits, arguments, "clip"):
        raise ConfigError(problems)


def clip_norm(gradients: Gradients, limit: Tensor | float) -> Tensor:
    """Scale all gradients together to a norm of at most `limit`, as torch's `clip_grad_norm_` does; return the factor.

    Args:
        gradients: changed in place.
        limit: the largest norm.
    """
    factor = (limit / (gradients.norm + EPS)).clamp(max=1.0)
    gradients.scale(factor)
    return factor


def _values(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter without the graph that a second-order optimizer keeps."""
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad.detach()
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad.detach()._values()

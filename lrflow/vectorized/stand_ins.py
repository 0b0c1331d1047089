"""Modules of torch that `vmap` computes otherwise than a network alone, and what stands in for them in a population."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Streams:
    """The random numbers of a population: every member draws from a generator of its own, as it would alone.

    Args:
        states: of torch's generator on the CPU, one a member.
    """

    def __init__(self, states: Sequence[Tensor]) -> None:
        self._generators = [torch.Generator() for _ in states]
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these members alone, in this order."""
        self._generators = [self._generators[row] for row in rows]

    def state(self, row: int) -> Tensor:
        """Where a member's generator is."""
        return self._generators[row].get_state()

    def bernoulli(self, shape: torch.Size, probability: float, like: Tensor) -> Tensor:
        """Zeros and ones as each member's generator gives them; [members, *shape]."""
        drawn = like.new_empty(len(self._generators), *shape)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.bernoulli_(probability, generator=generator)
        return drawn


def stand_in(network: nn.Module, streams: Streams | None) -> nn.Module:
    """Change the modules of a network that need it; torch's own classes alone, not what a user made of them.

    Args:
        network: changed in place.
        streams: of its dropout; None: there may be none in training.

    Returns:
        The network.
    """
    for module in network.modules():
        if type(module) in _STAND_INS:
            module.__class__ = _STAND_INS[type(module)]
        if isinstance(module, _Dropout):
            vars(module)["streams"] = streams
    return network


class _Dropout(nn.Dropout):
    """Dropout whose masks each member draws from its own generator."""

    streams: Streams | None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1):
            return super().forward(input)
        if self.streams is None:
            raise RuntimeError("dropout has no random numbers to draw here")
        noise: Tensor = _Noise.apply(input, self.p, self.streams)
        return input.mul_(noise) if self.inplace else input * noise


class _Noise(torch.autograd.Function):
    """What dropout multiplies by: 0, or 1 / (1 - p)."""

    @staticmethod
    def forward(input: Tensor, p: float, streams: Streams) -> Tensor:
        raise RuntimeError("dropout of what is the same for all members")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: it has no gradient."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """No gradient."""
        return None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, p: float, streams: Streams) -> tuple[Tensor, int]:
        shape = input.movedim(in_dims[0], 0).shape[1:]
        with torch.no_grad():
            return streams.bernoulli(shape, 1 - p, input).div_(1 - p), 0


class _Embedding(nn.Embedding):
    """An embedding whose padding gets no gradient in any member: vmap sees to the first alone (torch 2.13)."""

    def forward(self, input: Tensor) -> Tensor:
        found = functional.embedding(input, self.weight)
        if self.padding_idx is None:
            return found
        return torch.where((input == self.padding_idx).unsqueeze(-1), found.detach(), found)


_STAND_INS: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: _Dropout, nn.Embedding: _Embedding}

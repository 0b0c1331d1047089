"""Policies for PPO: sample actions from given noise, and compute their log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import gymnasium as gym
import torch
from torch import Tensor, nn

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class CategoricalActor(nn.Module):
    """A categorical distribution over n actions.

    Args:
        inputs: size of an observation.
        space: action space.
        hidden: widths of the hidden layers.
    """

    def __init__(self, inputs: int, space: gym.spaces.Discrete, hidden: Sequence[int]) -> None:
        super().__init__()
        self.choices = int(space.n)
        self.net = tanh_mlp(inputs, self.choices, hidden, gain=0.01)

    def noise(self, *shape: int) -> Tensor:
        """Draw the noise for actions of this shape: Gumbel noise, [*shape, n]."""
        device = next(self.parameters()).device
        return -torch.empty(*shape, self.choices, device=device).exponential_().log_()

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return actions, int64 [batch], distributed by the softmax of the logits (Gumbel-max trick)."""
        return (self.net(observations) + noise).argmax(-1)

    def mode(self, observations: Tensor) -> Tensor:
        """Return the most likely actions, [batch]."""
        return self.net(observations).argmax(-1)

    def log_prob(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability of actions and the entropy of the policy, [batch] each."""
        logs = self.net(observations).log_softmax(-1)
        return logs.gather(-1, actions[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


class GaussianActor(nn.Module):
    """A normal distribution around the network's output, with the same width for all observations.

    Actions are drawn without bounds and clipped only before they are passed to the environment.

    Args:
        inputs: size of an observation.
        space: action space.
        hidden: widths of the hidden layers.
        log_std: initial logarithm of the standard deviation.
    """

    def __init__(self, inputs: int, space: gym.spaces.Box, hidden: Sequence[int], log_std: float = 0.0) -> None:
        super().__init__()
        self.net = tanh_mlp(inputs, space.shape[0], hidden, gain=0.01)
        self.log_std = nn.Parameter(torch.full(space.shape, log_std))

    def noise(self, *shape: int) -> Tensor:
        """Draw the noise for actions of this shape, [*shape, size]."""
        return torch.randn(*shape, len(self.log_std), device=self.log_std.device)

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return actions, [batch, size]."""
        return torch.addcmul(self.net(observations), self.log_std.exp(), noise)

    def mode(self, observations: Tensor) -> Tensor:
        """Return the most likely actions, [batch, size]."""
        return self.net(observations)

    def log_prob(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-density of actions and the entropy of the policy, [batch] each."""
        deviations = (actions - self.net(observations)) * (-self.log_std).exp()
        spread = (self.log_std + _HALF_LOG_2PI).sum()
        entropy = (spread + 0.5 * len(self.log_std)).expand(len(actions))
        return -0.5 * deviations.square().sum(-1) - spread, entropy


class RunningNorm(nn.Module):
    """Normalises inputs to mean 0 and variance 1 by running statistics of all inputs so far, and clips outliers.

    The moments are merged by the method of Chan, Golub and LeVeque (1979).

    Args:
        size: size of an input.
        limit: clip to this many standard deviations.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int, limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, inputs: Tensor) -> None:
        """Update the statistics with inputs [n, size]."""
        inputs = inputs.double()
        count, mean, var = len(inputs), inputs.mean(0), inputs.var(0, unbiased=False)
        total = self.count + count
        delta = mean - self.mean
        moment = self.var * self.count + var * count + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.var.copy_(moment / total)
        self.count.copy_(total)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return normalised inputs [batch, size], float32."""
        scaled = (inputs - self.mean) * (self.var + 1e-8).rsqrt()
        return scaled.clamp(-self.limit, self.limit).float()


def tanh_mlp(inputs: int, outputs: int, hidden: Sequence[int], gain: float) -> nn.Sequential:
    """Linear layers with tanh between them, orthogonally initialised: gain sqrt(2) inside, `gain` at the output."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [_orthogonal(nn.Linear(before, after), math.sqrt(2)), nn.Tanh()]
    return nn.Sequential(*layers, _orthogonal(nn.Linear(widths[-1], outputs), gain))


def _orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer

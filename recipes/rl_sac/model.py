"""Soft actor-critic: an actor, two critics and a temperature, each with its own learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from lrflow.errors import ConfigError, Problem

from ..rl.environments import spaces
from ..rl.evaluation import Agent
from ..rl.networks import mlp
from ..rl.off_policy import OffPolicyData
from ..rl.replay import Transitions

LOG_STD = (-20.0, 2.0)


class Actor(nn.Module):
    """A normal distribution over actions, squashed into (-1, 1) by tanh.

    Args:
        observations: size of an observation.
        hidden: widths of the hidden layers.
        actions: size of an action.
    """

    def __init__(self, observations: int, hidden: Sequence[int], actions: int) -> None:
        super().__init__()
        self.body = mlp(observations, hidden, 2 * actions)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before the squashing; [batch, size] each."""
        mean, log_std = self.body(observations).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)

    def sample(self, observations: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sample actions with a gradient, and their log-density.

        Args:
            observations: [batch, size].
            noise: standard normal numbers, [batch, size of an action]; None: draw them.

        Returns:
            Actions in (-1, 1), [batch, size]; their log-density, [batch].
        """
        mean, log_std = self(observations)
        noise = torch.randn_like(mean) if noise is None else noise
        before = mean + log_std.exp() * noise
        # log(1 - tanh(x)^2), in a form that does not round to log(0) if tanh(x) is close to 1.
        log_slope = 2 * (math.log(2) - before - functional.softplus(-2 * before))
        log_density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - log_slope
        return before.tanh(), log_density.sum(-1)


class Critics(nn.Module):
    """Two value networks; the smaller value is used (Fujimoto et al., 2018, arXiv 1802.09477).

    Args:
        observations: size of an observation.
        actions: size of an action.
        hidden: widths of the hidden layers.
    """

    def __init__(self, observations: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.first = mlp(observations + actions, hidden, 1)
        self.second = mlp(observations + actions, hidden, 1)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return both values; [2, batch]."""
        pair = torch.cat([observations, actions], dim=-1)
        return torch.stack([self.first(pair), self.second(pair)]).squeeze(-1)


class Losses(NamedTuple):
    """The three losses of soft actor-critic, scalars; each has gradients only for its own parameters."""

    critic: Tensor
    actor: Tensor
    temperature: Tensor


def sac_losses(
    actor: Actor,
    critics: Critics,
    target: Critics,
    log_temperature: Tensor,
    batch: Transitions,
    gamma: float,
    target_entropy: float,
) -> Losses:
    """Return the losses of a batch.

    Haarnoja et al., 2018, arXiv 1812.05905, equations 5, 7 and 18, the last one in the logarithm of the temperature, as
    is usual.

    Args:
        actor: samples actions with their density.
        critics: value networks.
        target: moving average of the critics.
        log_temperature: logarithm of the weight of the entropy.
        batch: transitions with actions in [-1, 1].
        gamma: discount per step.
        target_entropy: entropy to which the temperature regulates the actor.
    """
    temperature = log_temperature.detach().exp()
    with torch.no_grad():
        next_actions, next_log_density = actor.sample(batch.next_observations)
        following = target(batch.next_observations, next_actions).amin(0) - temperature * next_log_density
        goal = batch.rewards + gamma * (1 - batch.terminated) * following
    critic = 0.5 * (critics(batch.observations, batch.actions) - goal).square().mean(1).sum()

    actions, log_density = actor.sample(batch.observations)
    # The actor's loss differentiates through the critics, but must not train them.
    fixed = {name: parameter.detach() for name, parameter in critics.named_parameters()}
    value = functional_call(critics, fixed, (batch.observations, actions)).amin(0)
    return Losses(
        critic,
        (temperature * log_density - value).mean(),
        -log_temperature * (log_density.detach().mean() + target_entropy),
    )


class SAC(Agent):
    """Soft actor-critic with a learned temperature; `layers` rules match `actor`, `critic` and `log_temperature`.

    One optimizer minimises the sum of the three losses. Logs `train/return` and `train/temperature` once per epoch.

    Args:
        env_id: environment, which determines the spaces of observations and actions.
        env_options: arguments of the environment.
        hidden: widths of the hidden layers.
        gamma: discount per step.
        tau: share by which the target moves towards the critics after each step.
        temperature: initial temperature, above 0.
        target_entropy: entropy to which the temperature regulates the actor; None: minus the size of an action.

    Raises:
        ConfigError: the actions of the environment are not bounded vectors, or an option is out of range.
    """

    middle: Tensor  # of the action bounds
    reach: Tensor  # half the distance between the action bounds

    def __init__(
        self,
        env_id: str,
        env_options: Mapping[str, Any] | None = None,
        hidden: Sequence[int] = (256, 256),
        gamma: float = 0.99,
        tau: float = 0.005,
        temperature: float = 1.0,
        target_entropy: float | None = None,
    ) -> None:
        super().__init__()
        observations, actions = spaces(env_id, env_options)
        problems = []
        if not isinstance(actions, gym.spaces.Box) or not actions.is_bounded():
            message = f"expected actions that are vectors with bounds, not {actions}"
            hint = "recipe=rl_dqn" if isinstance(actions, gym.spaces.Discrete) else None
            problems.append(Problem("data.env_id", message, env_id, hint))
        if not temperature > 0:
            problems.append(Problem("model.temperature", "expected a number above 0", temperature))
        for name, share in {"gamma": gamma, "tau": tau}.items():
            if not 0 <= share <= 1:
                problems.append(Problem(f"model.{name}", "expected a number from 0 to 1", share))
        if problems:
            raise ConfigError(problems)
        assert isinstance(actions, gym.spaces.Box)
        size, action_size = observations.shape[0], int(np.prod(actions.shape))
        self.actor = Actor(size, hidden, action_size)
        self.critic = Critics(size, action_size, hidden)
        self.target = deepcopy(self.critic).requires_grad_(False)
        # Collected once, because iterating over the modules takes time.
        self._targets: list[Tensor] = list(self.target.parameters())
        self._followed: list[Tensor] = list(self.critic.parameters())
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.register_buffer("middle", torch.from_numpy((actions.high + actions.low) / 2), persistent=False)
        self.register_buffer("reach", torch.from_numpy((actions.high - actions.low) / 2), persistent=False)
        self.gamma = gamma
        self.tau = tau
        self.target_entropy = float(-action_size if target_entropy is None else target_entropy)

    def explore(self, observations: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Sample actions from the actor, within the bounds of the environment; [environments, size]."""
        mean, log_std = self.actor(observations.to(self.device))
        noise = torch.randn(mean.shape, generator=generator).to(self.device)
        return self._within_bounds((mean + log_std.exp() * noise).tanh())

    @torch.inference_mode()
    def policy(self, observations: np.ndarray) -> np.ndarray:
        """Return the mean action, squashed."""
        mean, _ = self.actor(torch.from_numpy(observations).to(self.device))
        return self._within_bounds(mean.tanh()).numpy()

    def training_step(self, batch: Transitions, batch_idx: int) -> Tensor:
        """Return the sum of the three losses."""
        batch = batch._replace(actions=(batch.actions - self.middle) / self.reach)
        losses = sac_losses(
            self.actor, self.critic, self.target, self.log_temperature, batch, self.gamma, self.target_entropy
        )
        return losses.critic + losses.actor + losses.temperature

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make an optimizer step, then move the target towards the critics."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            torch._foreach_lerp_(self._targets, self._followed, self.tau)

    def on_train_epoch_end(self) -> None:
        """Log temperature and return."""
        data: OffPolicyData = self.trainer.datamodule  # type: ignore[attr-defined]
        self.log("train/temperature", self.log_temperature.exp().item())
        if data.environments.returns:
            self.log("train/return", float(np.mean(data.environments.returns)))

    def _within_bounds(self, actions: Tensor) -> Tensor:
        return (self.middle + self.reach * actions).cpu()

"""Soft actor-critic: an actor, two critics and a temperature, each with a learning rate of its own."""

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
    """A normal distribution of actions, squashed by tanh into (-1, 1).

    Args:
        observations: size of an observation.
        hidden: widths of the hidden layers.
        actions: size of an action.
    """

    def __init__(self, observations: int, hidden: Sequence[int], actions: int) -> None:
        super().__init__()
        self.body = mlp(observations, hidden, 2 * actions)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation before the squashing; [batch, size] each."""
        mean, log_std = self.body(observations).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)

    def sample(self, observations: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Actions with a gradient, and the logarithm of their density.

        Args:
            observations: [batch, size].
            noise: standard normal numbers, [batch, size of an action]; None: drawn.

        Returns:
            Actions in (-1, 1), [batch, size]; their log-density, [batch].
        """
        mean, log_std = self(observations)
        noise = torch.randn_like(mean) if noise is None else noise
        before = mean + log_std.exp() * noise
        # log(1 - tanh(x)^2), in a form that does not round to log(0) where tanh(x) is close to 1.
        log_slope = 2 * (math.log(2) - before - functional.softplus(-2 * before))
        log_density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - log_slope
        return before.tanh(), log_density.sum(-1)


class Critics(nn.Module):
    """Two values of an observation and an action; the smaller is believed (Fujimoto et al., 2018, arXiv 1802.09477).

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
        """Both values; [2, batch]."""
        pair = torch.cat([observations, actions], dim=-1)
        return torch.stack([self.first(pair), self.second(pair)]).squeeze(-1)


class Losses(NamedTuple):
    """The three losses of soft actor-critic, scalars; each has a gradient for its own parameters alone."""

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
    """What each part learns from a batch.

    Haarnoja et al., 2018, arXiv 1812.05905, equations 5, 7 and 18; the temperature's as is usual in its logarithm.

    Args:
        actor: gives actions and their density.
        critics: value them.
        target: the critics as a moving average.
        log_temperature: logarithm of what a unit of entropy is worth.
        batch: transitions, their actions in [-1, 1].
        gamma: discount of a step.
        target_entropy: that the temperature holds the actor to.
    """
    temperature = log_temperature.detach().exp()
    with torch.no_grad():
        next_actions, next_log_density = actor.sample(batch.next_observations)
        following = target(batch.next_observations, next_actions).amin(0) - temperature * next_log_density
        goal = batch.rewards + gamma * (1 - batch.terminated) * following
    critic = 0.5 * (critics(batch.observations, batch.actions) - goal).square().mean(1).sum()

    actions, log_density = actor.sample(batch.observations)
    # The critics tell the actor where to go, and learn nothing from it themselves.
    fixed = {name: parameter.detach() for name, parameter in critics.named_parameters()}
    value = functional_call(critics, fixed, (batch.observations, actions)).amin(0)
    return Losses(
        critic,
        (temperature * log_density - value).mean(),
        -log_temperature * (log_density.detach().mean() + target_entropy),
    )


class SAC(Agent):
    """Soft actor-critic with a learned temperature: `actor`, `critic` and `log_temperature` are what layer rules name.

    One optimizer steps on the sum of the three losses. Logs `train/return` and `train/temperature` once an
    epoch.

    Args:
        env_id: the environment, for its spaces.
        env_options: its arguments.
        hidden: widths of the hidden layers.
        gamma: discount of a step.
        tau: how far the critics' target moves towards them after each step.
        temperature: at first; above 0.
        target_entropy: that the temperature holds the actor to; None: minus the size of an action.

    Raises:
        ConfigError: the actions of the environment are not vectors with bounds, or options that cannot be.
    """

    middle: Tensor  # of the bounds of actions, and half the distance between them
    reach: Tensor

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
        # Collected once, since walking the modules takes time.
        self._targets: list[Tensor] = list(self.target.parameters())
        self._followed: list[Tensor] = list(self.critic.parameters())
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.register_buffer("middle", torch.from_numpy((actions.high + actions.low) / 2), persistent=False)
        self.register_buffer("reach", torch.from_numpy((actions.high - actions.low) / 2), persistent=False)
        self.gamma = gamma
        self.tau = tau
        self.target_entropy = float(-action_size if target_entropy is None else target_entropy)

    def explore(self, observations: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Actions drawn from the actor, within the bounds of the environment; [environments, size]."""
        mean, log_std = self.actor(observations.to(self.device))
        noise = torch.randn(mean.shape, generator=generator).to(self.device)
        return self._within_bounds((mean + log_std.exp() * noise).tanh())

    @torch.inference_mode()
    def policy(self, observations: np.ndarray) -> np.ndarray:
        """The mean action, squashed."""
        mean, _ = self.actor(torch.from_numpy(observations).to(self.device))
        return self._within_bounds(mean.tanh()).numpy()

    def training_step(self, batch: Transitions, batch_idx: int) -> Tensor:
        """The sum of the three losses."""
        batch = batch._replace(actions=(batch.actions - self.middle) / self.reach)
        losses = sac_losses(
            self.actor, self.critic, self.target, self.log_temperature, batch, self.gamma, self.target_entropy
        )
        return losses.critic + losses.actor + losses.temperature

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the target follow the critics."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            torch._foreach_lerp_(self._targets, self._followed, self.tau)

    def on_train_epoch_end(self) -> None:
        """Log how the collection went."""
        data: OffPolicyData = self.trainer.datamodule  # type: ignore[attr-defined]
        self.log("train/temperature", self.log_temperature.exp().item())
        if data.environments.returns:
            self.log("train/return", float(np.mean(data.environments.returns)))

    def _within_bounds(self, actions: Tensor) -> Tensor:
        return (self.middle + self.reach * actions).cpu()

"""Proximal policy optimization: the loss and the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from ..rl.environments import spaces
from ..rl.evaluation import Agent
from .actors import CategoricalActor, GaussianActor, RunningNorm, tanh_mlp
from .data import Batch, Rollouts


class PPO(Agent):
    """An actor and a critic without shared layers, trained by PPO's clipped objective (Schulman et al., 2017, arXiv
    1707.06347).

    Logs once per iteration, over the whole rollout after its last update: `train/kl` (KL divergence from the
    policy that collected the rollout to the updated one, by Schulman's low-variance estimate; `feedback=kl` reads it),
    `train/entropy`, `train/clip_fraction`, `train/explained_variance`, and `train/return` (mean over the latest 100
    episodes).

    Args:
        env_id: environment, which determines the sizes of observations and actions.
        env_options: arguments of the environment.
        hidden: widths of the hidden layers of both actor and critic.
        log_std: initial log standard deviation of continuous actions.
        clip: distance of the probability ratio from 1 beyond which its gradient is 0, without `scalars.clip_range`.
        clip_value: distance of a value from that at collection beyond which its gradient is 0; None: no clipping.
        value_coefficient: weight of the squared error of the values.
        entropy_coefficient: weight of the entropy bonus, without `scalars.entropy_coefficient`.
        normalize_advantages: normalise to mean 0 and standard deviation 1 in each minibatch.
        normalize_observations: normalise by running statistics, which change between iterations.
        deterministic: evaluate with the most likely actions; False: with sampled actions, as in training.
    """

    def __init__(
        self,
        env_id: str,
        env_options: Mapping[str, Any] | None = None,
        hidden: Sequence[int] = (64, 64),
        log_std: float = 0.0,
        clip: float = 0.2,
        clip_value: float | None = None,
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.0,
        normalize_advantages: bool = True,
        normalize_observations: bool = False,
        deterministic: bool = True,
    ) -> None:
        super().__init__()
        observation_space, self.action_space = spaces(env_id, env_options)
        size = observation_space.shape[0]
        self.actor: CategoricalActor | GaussianActor
        if isinstance(self.action_space, gym.spaces.Discrete):
            self.actor = CategoricalActor(size, self.action_space, hidden)
        else:
            self.actor = GaussianActor(size, self.action_space, hidden, log_std)
        self.critic = tanh_mlp(size, 1, hidden, gain=1.0)
        self.norm = RunningNorm(size) if normalize_observations else None
        self.clip = clip
        self.clip_value = clip_value
        self.value_coefficient = value_coefficient
        self.entropy_coefficient = entropy_coefficient
        self.normalize_advantages = normalize_advantages
        self.deterministic = deterministic

    def normalized(self, observations: Tensor) -> Tensor:
        """Return observations [batch, size] as inputs of actor and critic."""
        return observations if self.norm is None else self.norm(observations)

    def for_environment(self, actions: Tensor) -> np.ndarray:
        """Return actions for the environment; continuous ones are clipped to its bounds."""
        array: np.ndarray = actions.cpu().numpy()
        if isinstance(self.action_space, gym.spaces.Box):
            array = np.clip(array, self.action_space.low, self.action_space.high)
        return array

    @torch.no_grad()
    def policy(self, observations: np.ndarray) -> np.ndarray:
        """Return the actions to evaluate."""
        inputs = self.normalized(torch.from_numpy(observations).to(self.device))
        if self.deterministic:
            return self.for_environment(self.actor.mode(inputs))
        return self.for_environment(self.actor.sample(inputs, self.actor.noise(len(inputs))))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a minibatch."""
        log_probs, entropy = self.actor.log_prob(batch.observations, batch.actions)
        advantages = batch.advantages
        if self.normalize_advantages:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = clipped_surrogate(log_probs - batch.log_probs, advantages, self.clip_range)
        values = self.critic(batch.observations)[:, 0]
        value_loss = clipped_value_loss(values, batch.values, batch.returns, self.clip_value)
        bonus = self.planned("entropy_coefficient", self.entropy_coefficient) * entropy.mean()
        return policy_loss + self.value_coefficient * value_loss - bonus

    @property
    def clip_range(self) -> float:
        """The distance of the probability ratio from 1 at this step beyond which its gradient is 0."""
        return self.planned("clip_range", self.clip)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """After the last update of an iteration, log the change of the policy."""
        if not self.trainer.is_last_batch:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, Rollouts)
        self.log_dict(self._measured(data.rollout), on_step=False, on_epoch=True, batch_size=1)
        if data.environments.returns:
            self.log(
                "train/return", float(np.mean(data.environments.returns)), on_step=False, on_epoch=True, batch_size=1
            )

    @torch.no_grad()
    def _measured(self, rollout: Batch) -> dict[str, Tensor]:
        log_probs, entropy = self.actor.log_prob(rollout.observations, rollout.actions)
        log_ratio = log_probs - rollout.log_probs
        return {
            "train/kl": (log_ratio.exp() - 1 - log_ratio).mean(),
            "train/entropy": entropy.mean(),
            "train/clip_fraction": (log_ratio.expm1().abs() > self.clip_range).float().mean(),
            "train/explained_variance": 1 - (rollout.returns - rollout.values).var() / rollout.returns.var(),
        }


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return PPO's objective with its sign reversed, to be minimised (Schulman et al., 2017, equation 7).

    Args:
        log_ratio: log-probability of the actions now minus that at collection; [batch].
        advantages: [batch].
        clip: epsilon of the paper.
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()


def clipped_value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Return the mean squared error of the values; with `clip`, the larger of the errors with and without clipping.

    Args:
        values: current values; [batch].
        before: values at collection; [batch].
        returns: targets of the values; [batch].
        clip: maximum distance from `before`; None: no clipping.
    """
    error = (values - returns).square()
    if clip is not None:
        held = before + (values - before).clamp(-clip, clip)
        error = torch.maximum(error, (held - returns).square())
    return error.mean()

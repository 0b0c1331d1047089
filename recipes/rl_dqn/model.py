"""Deep Q-network: learns the value of each action; the policy takes the best action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.errors import ConfigError, Problem, did_you_mean

from ..rl.environments import spaces
from ..rl.evaluation import Agent
from ..rl.networks import mlp
from ..rl.off_policy import OffPolicyData
from ..rl.replay import Transitions

ERRORS = {"huber": functional.smooth_l1_loss, "mse": functional.mse_loss}


def q_loss(
    q: nn.Module, target: nn.Module, batch: Transitions, gamma: float, double: bool = False, error: str = "huber"
) -> Tensor:
    """Return the error of the values of the actions taken, against reward plus discounted next value.

    Mnih et al., 2015, doi 10.1038/nature14236; `double`: van Hasselt et al., 2016, arXiv 1509.06461.

    Args:
        q: trained network, from observations to values [batch, actions].
        target: earlier copy of `q`; gets no gradient.
        batch: transitions.
        gamma: discount per step.
        double: `q` chooses the next action and `target` values it; otherwise `target` does both.
        error: `huber` or `mse`.

    Returns:
        The mean over the batch, a scalar.
    """
    with torch.no_grad():
        following = target(batch.next_observations)
        best = (q(batch.next_observations) if double else following).argmax(1, keepdim=True)
        goal = batch.rewards + gamma * (1 - batch.terminated) * following.gather(1, best).squeeze(1)
    value = q(batch.observations).gather(1, batch.actions.unsqueeze(1)).squeeze(1)
    return ERRORS[error](value, goal)


class DQN(Agent):
    """A Q-network `q` and its `target`, which is copied from it every `target_every` optimizer steps.

    Explores by random actions, whose share is `scalars.epsilon` of the plan. Logs `train/return` once per epoch.

    Args:
        env_id: environment, which determines the sizes of observations and actions.
        env_options: arguments of the environment.
        hidden: widths of the hidden layers.
        gamma: discount per step.
        target_every: optimizer steps between updates of the target.
        double: True: double DQN, the network itself chooses the next action and the target values it.
        error: `huber` or `mse`.

    Raises:
        ConfigError: the actions of the environment are not discrete, or an option is out of range.
    """

    def __init__(
        self,
        env_id: str,
        env_options: Mapping[str, Any] | None = None,
        hidden: Sequence[int] = (256, 256),
        gamma: float = 0.99,
        target_every: int = 128,
        double: bool = False,
        error: str = "huber",
    ) -> None:
        super().__init__()
        observations, actions = spaces(env_id, env_options)
        problems = []
        if not isinstance(actions, gym.spaces.Discrete):
            problems.append(
                Problem("data.env_id", f"expected discrete actions, not {actions}", env_id, "recipe=rl_sac")
            )
        if error not in ERRORS:
            problems.append(Problem("model.error", "expected huber or mse", error, did_you_mean(error, ERRORS)))
        if target_every < 1:
            problems.append(Problem("model.target_every", "expected a whole number, at least 1", target_every))
        if not 0 <= gamma <= 1:
            problems.append(Problem("model.gamma", "expected a number from 0 to 1", gamma))
        if problems:
            raise ConfigError(problems)
        assert isinstance(actions, gym.spaces.Discrete)
        self.actions = int(actions.n)
        self.q = mlp(observations.shape[0], hidden, self.actions)
        self.target = deepcopy(self.q).requires_grad_(False)
        self.gamma = gamma
        self.target_every = target_every
        self.double_q = double
        self.error = error

    def explore(self, observations: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Return the best action per observation, or a random one instead; [environments]."""
        count = len(observations)
        at_random = torch.rand(count, generator=generator) < self.planned("epsilon")
        chosen = torch.randint(self.actions, (count,), generator=generator)
        if not at_random.all():
            chosen = torch.where(at_random, chosen, self.q(observations.to(self.device)).argmax(1).cpu())
        return chosen

    @torch.inference_mode()
    def policy(self, observations: np.ndarray) -> np.ndarray:
        """Return the best action per observation."""
        return self.q(torch.from_numpy(observations).to(self.device)).argmax(1).cpu().numpy()

    def training_step(self, batch: Transitions, batch_idx: int) -> Tensor:
        """Return the loss of a batch; update the target first if it is due."""
        if self.trainer.global_step % self.target_every == 0:
            self.target.load_state_dict(self.q.state_dict())
        return q_loss(self.q, self.target, batch, self.gamma, self.double_q, self.error)

    def on_train_epoch_end(self) -> None:
        """Log the return."""
        data: OffPolicyData = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.environments.returns:
            self.log("train/return", float(np.mean(data.environments.returns)))

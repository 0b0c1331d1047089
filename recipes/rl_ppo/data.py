"""Rollouts: the steps of a policy in its environments, as minibatches to train it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrflow.errors import ConfigError, Problem

from ..rl.environments import Environments
from ..rl.evaluation import TEST_SEED, VALIDATION_SEED, Episodes
from .actors import RunningNorm

if TYPE_CHECKING:
    from .model import PPO


class Batch(NamedTuple):
    """Steps of environments, in any order.

    Args:
        observations: normalised observations; [batch, size], float32.
        actions: sampled actions; int64 [batch], or float32 [batch, size].
        log_probs: log-probabilities of the actions at collection; [batch].
        values: values of the critic at collection; [batch].
        advantages: [batch].
        returns: advantages plus values, the targets of the critic; [batch].
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def at(self, rows: Tensor) -> Batch:
        """Return the steps with these indices."""
        return Batch(*(column[rows] for column in self))


class Rollouts(pl.LightningDataModule):
    """The environments of a run. A training epoch is one iteration of PPO: a rollout and its updates.

    A minibatch corresponds to `num_envs * steps / (update_epochs * minibatches)` environment steps.

    A resumed run is exact: checkpoints contain the environments, the statistics of the rewards, and within an iteration
    its rollout and the remaining minibatches.

    Args:
        env_id: gymnasium id, or `my_pkg:Mine-v0`.
        env_options: arguments of the environment.
        num_envs: number of environments.
        steps: steps per environment and rollout.
        update_epochs: passes over a rollout.
        minibatches: minibatches per pass.
        gamma: discount of rewards.
        gae_lambda: lambda of generalized advantage estimation.
        normalize_rewards: divide rewards by the standard deviation of the running discounted return.
        val_episodes: episodes per validation.
        test_episodes: episodes of the test.
        seed: seed of the training environments; validation and test episodes have their own seeds.

    Raises:
        ConfigError: lists all invalid options; in `setup`, several devices.
    """

    def __init__(
        self,
        env_id: str,
        env_options: Mapping[str, Any] | None = None,
        num_envs: int = 4,
        steps: int = 128,
        update_epochs: int = 4,
        minibatches: int = 4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        normalize_rewards: bool = False,
        val_episodes: int = 20,
        test_episodes: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"num_envs": num_envs, "steps": steps, "update_epochs": update_epochs, "minibatches": minibatches}
        counts |= {"val_episodes": val_episodes, "test_episodes": test_episodes}
        if problems := _problems(counts, {"gamma": gamma, "gae_lambda": gae_lambda}):
            raise ConfigError(problems)
        self.env_id = env_id
        self.env_options = dict(env_options or {})
        self.num_envs = num_envs
        self.steps = steps
        self.update_epochs = update_epochs
        self.minibatches = minibatches
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.reward_norm = RunningNorm(1) if normalize_rewards else None
        self.val_episodes = val_episodes
        self.test_episodes = test_episodes
        self.seed = seed
        self.environments: Environments
        self.rollout: Batch
        self.order = torch.zeros(0, dtype=torch.int64)  # rows of each minibatch of this iteration; [updates, batch]
        self.done = 0  # minibatches of this iteration used so far
        self._discounted = np.zeros(num_envs)  # discounted reward so far in each environment's episode

    def setup(self, stage: str) -> None:
        """Make the environments, if the run trains."""
        if self.trainer is not None and self.trainer.world_size > 1:
            message = "expected 1: these environments are stepped in one process"
            raise ConfigError([Problem("trainer.devices", message, self.trainer.world_size)])
        if stage == "fit":
            self.environments = Environments(self.env_id, self.num_envs, self.seed, self.env_options)

    def train_dataloader(self) -> Updates:
        """Return minibatches of rollouts; each iteration over the loader collects one rollout."""
        return Updates(self)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation episodes."""
        return self._episodes(VALIDATION_SEED, self.val_episodes)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test episodes."""
        return self._episodes(TEST_SEED, self.test_episodes)

    def begin_iteration(self) -> None:
        """Collect a rollout with the policy and draw the order of its minibatches."""
        agent: PPO = self.trainer.lightning_module  # type: ignore[union-attr, assignment]
        self.rollout = self._collect(agent)
        size = self.num_envs * self.steps
        passes = [torch.randperm(size) for _ in range(self.update_epochs)]
        self.order = torch.stack(passes).view(self.update_epochs * self.minibatches, -1).to(agent.device)
        self.done = 0

    def _collect(self, agent: PPO) -> Batch:
        environments, steps, count = self.environments, self.steps, self.num_envs
        observations = torch.empty(steps + 1, *environments.observations.shape, device=agent.device)
        rewards = np.empty((steps, count))
        ended = np.empty((steps, count), dtype=bool)
        cut_off: list[tuple[int, int, np.ndarray]] = []
        noise = agent.actor.noise(steps, count)
        drawn = []
        with torch.inference_mode():
            for step in range(steps):
                observations[step] = torch.from_numpy(environments.observations)
                actions = agent.actor.sample(agent.normalized(observations[step]), noise[step])
                drawn.append(actions)
                following, rewards[step], terminated, truncated = environments.step(agent.for_environment(actions))
                ended[step] = terminated | truncated
                if truncated.any():
                    cut_off += [(step, i, following[i]) for i in np.flatnonzero(truncated & ~terminated).tolist()]
        observations[steps] = torch.from_numpy(environments.observations)
        with torch.no_grad():
            inputs = agent.normalized(observations)
            values = agent.critic(inputs)[..., 0]
            if self.reward_norm is not None:
                rewards = self._normalized(rewards, ended)
            if cut_off:
                # A time limit is no terminal state: add the critic's value of what would follow (Pardo et al., 2018).
                last = torch.from_numpy(np.stack([observation for _, _, observation in cut_off])).to(agent.device)
                beyond = agent.critic(agent.normalized(last))[:, 0].cpu().numpy()
                for (step, index, _), value in zip(cut_off, beyond, strict=True):
                    rewards[step, index] += self.gamma * value
            advantages = generalized_advantages(rewards, values.cpu().numpy(), ended, self.gamma, self.gae_lambda)
            inputs, taken = inputs[:-1].flatten(0, 1), torch.stack(drawn).flatten(0, 1)
            log_probs, _ = agent.actor.log_prob(inputs, taken)
            if agent.norm is not None:
                agent.norm.update(observations[:-1].flatten(0, 1))
            gained, expected = torch.from_numpy(advantages).to(agent.device).flatten(), values[:-1].flatten()
        return Batch(inputs, taken.clone(), log_probs, expected, gained, gained + expected)

    def _normalized(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Divide rewards by the standard deviation of the discounted return."""
        assert self.reward_norm is not None
        sums = np.empty_like(rewards)
        for step, reward in enumerate(rewards):
            self._discounted = self._discounted * self.gamma + reward
            sums[step] = self._discounted
            self._discounted[ended[step]] = 0.0
        self.reward_norm.update(torch.from_numpy(sums).reshape(-1, 1))
        scale = float((self.reward_norm.var + 1e-8).sqrt())
        return np.clip(rewards / scale, -self.reward_norm.limit, self.reward_norm.limit)

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors; the rollout only within an iteration."""
        within = 0 < self.done < len(self.order)
        return {
            "environments": self.environments.state_dict(),
            "reward_norm": None if self.reward_norm is None else dict(self.reward_norm.state_dict()),
            "discounted": torch.from_numpy(self._discounted.copy()),
            "iteration": {"rollout": tuple(self.rollout), "order": self.order, "done": self.done} if within else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`; only for training."""
        if not hasattr(self, "environments"):
            return
        self.environments.load_state_dict(state["environments"])
        if self.reward_norm is not None and state["reward_norm"] is not None:
            self.reward_norm.load_state_dict(state["reward_norm"])
        self._discounted = state["discounted"].numpy().copy()
        if iteration := state["iteration"]:
            self.rollout, self.order, self.done = Batch(*iteration["rollout"]), iteration["order"], iteration["done"]

    def _episodes(self, first: int, count: int) -> DataLoader[Any]:
        return Episodes(self.env_id, range(first, first + count), self.env_options).loader()


def _problems(counts: Mapping[str, int], fractions: Mapping[str, float]) -> list[Problem]:
    problems = [
        Problem(f"data.{name}", "expected a whole number, at least 1", value)
        for name, value in counts.items()
        if not isinstance(value, int) or value < 1
    ]
    problems += [
        Problem(f"data.{name}", "expected a number from 0 to 1", value)
        for name, value in fractions.items()
        if not 0 <= value <= 1
    ]
    if not problems and counts["num_envs"] * counts["steps"] % counts["minibatches"]:
        message = (
            f"{counts['num_envs']} x {counts['steps']} steps of a rollout do not part into minibatches of one size"
        )
        problems.append(Problem("data.minibatches", message, counts["minibatches"]))
    return problems


class Updates:
    """The minibatches of each iteration; an interrupted iteration continues with its next minibatch.

    Args:
        data: collects the rollouts.

    Attributes:
        samples_per_batch: environment steps per minibatch.
    """

    def __init__(self, data: Rollouts) -> None:
        self._data = data
        self.samples_per_batch = data.num_envs * data.steps / len(self)

    def __len__(self) -> int:
        return self._data.update_epochs * self._data.minibatches

    def __iter__(self) -> Iterator[Batch]:
        data = self._data
        if data.done == len(data.order):
            data.begin_iteration()
        while data.done < len(data.order):
            data.done += 1  # before the yield: a checkpoint after its update must count it
            yield data.rollout.at(data.order[data.done - 1])


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, ended: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Generalized advantage estimation (Schulman et al., 2016, arXiv 1506.02438).

    Args:
        rewards: [steps, environments]; at a time limit the reward includes the discounted value of what would follow.
        values: values of the observations, including that after the last step; [steps + 1, environments].
        ended: True if the episode ended with this step; [steps, environments], bool.
        gamma: discount of rewards.
        gae_lambda: 0: one-step error; 1: whole return minus value.

    Returns:
        [steps, environments], float32.
    """
    discount = gamma * ~ended
    errors = rewards + discount * values[1:] - values[:-1]
    discount *= gae_lambda
    advantages = np.empty_like(errors)
    following = np.zeros(errors.shape[1])
    for step in reversed(range(len(errors))):
        advantages[step] = following = errors[step] + discount[step] * following
    return advantages.astype(np.float32)

"""Environments and a replay buffer as the data of a run; steps are collected between batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrflow.errors import ConfigError, Problem

from .environments import Environments
from .evaluation import TEST_SEED, VALIDATION_SEED, Episodes
from .replay import ReplayBuffer, Transitions

Explore = Callable[[Tensor, int, torch.Generator], Tensor]
"""Maps (observations [n, size], environment steps so far, random generator) to actions [n] or [n, size]."""


class OffPolicyData(pl.LightningDataModule):
    """Batches from a replay buffer that the current policy fills.

    `learning_starts` steps with random actions come before the first batch; `train_frequency` steps with
    `trainer.lightning_module.explore` come before every `gradient_steps`-th batch. Steps are counted over all
    environments, and an epoch is a number of steps; those before the first batch belong to no epoch. Checkpoints
    contain the filled part of the buffer, the environments and the random generator.

    Args:
        env_id: gymnasium id; `my_pkg:Mine-v0` first imports my_pkg, which must be trusted.
        env_options: arguments of the environment.
        num_envs: number of environments that are stepped together.
        buffer_size: maximum number of transitions in the buffer.
        batch_size: transitions per batch.
        learning_starts: steps with random actions before the first batch.
        train_frequency: steps per collection.
        gradient_steps: batches after each collection.
        epoch_steps: steps per epoch.
        val_episodes: episodes per validation, always the same.
        test_episodes: episodes of the test.
        seed: seed of the environments, the exploration and the sampling.

    Raises:
        ConfigError: lists all invalid options.
    """

    def __init__(
        self,
        env_id: str,
        env_options: Mapping[str, Any] | None = None,
        num_envs: int = 1,
        buffer_size: int = 100_000,
        batch_size: int = 256,
        learning_starts: int = 1_000,
        train_frequency: int = 1,
        gradient_steps: int = 1,
        epoch_steps: int = 1_000,
        val_episodes: int = 10,
        test_episodes: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.env_id = env_id
        self.env_options = env_options
        self.num_envs = num_envs
        self.buffer_size = buffer_size
        self.batch_size = batch_size
        self.learning_starts = learning_starts
        self.train_frequency = train_frequency
        self.gradient_steps = gradient_steps
        self.epoch_steps = epoch_steps
        self.val_episodes = val_episodes
        self.test_episodes = test_episodes
        self.seed = seed
        if problems := self._problems():
            raise ConfigError(problems)
        self.environments: Environments
        self.buffer: ReplayBuffer
        self.steps = 0  # environment steps so far
        self._batches = 0  # batches sampled so far
        self._generator = torch.Generator().manual_seed(seed)

    def setup(self, stage: str) -> None:
        """Start the episodes, once for all stages.

        Raises:
            ConfigError: unknown environment, unbounded actions, or several devices.
        """
        if hasattr(self, "environments"):
            return
        if self.trainer is not None and self.trainer.world_size > 1:
            message = "the policy collects in one process; several would each train on a buffer of their own"
            raise ConfigError([Problem("trainer.devices", message, self.trainer.world_size, "trainer.devices=1")])
        self.environments = Environments(self.env_id, self.num_envs, self.seed, self.env_options)
        actions = self.environments.action_space
        if isinstance(actions, gym.spaces.Box) and not actions.is_bounded():
            message = f"expected actions with bounds, to draw the first ones within: {actions}"
            raise ConfigError([Problem("data.env_id", message, self.env_id)])
        self.buffer = ReplayBuffer(self.buffer_size, self.environments.observation_space, actions)

    def train_dataloader(self) -> Batches:
        """Return batches from the buffer; the steps that belong before a batch are made first."""
        return Batches(self)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation episodes, as one item."""
        return self._episodes(VALIDATION_SEED, self.val_episodes)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test episodes, as one item."""
        return self._episodes(TEST_SEED, self.test_episodes)

    def next_batch(self) -> Transitions:
        """Collect steps if they are due, then sample a batch."""
        if self.steps < self.learning_starts:
            self.collect(self.learning_starts - self.steps, self._act_randomly)
        if self._batches % self.gradient_steps == 0:
            agent: Any = self.trainer.lightning_module  # type: ignore[union-attr]
            self.collect(self.train_frequency, agent.explore)
        self._batches += 1
        return self.buffer.sample(self.batch_size, self._generator)

    @torch.inference_mode()
    def collect(self, steps: int, explore: Explore) -> None:
        """Step the environments and store the transitions.

        Args:
            steps: number of steps over all environments.
            explore: chooses the actions.
        """
        environments = self.environments
        for _ in range(0, steps, environments.count):
            observations = environments.observations
            actions = explore(torch.from_numpy(observations), self.steps, self._generator).numpy()
            after = environments.step(actions)
            self.buffer.add(observations, actions, after.rewards, after.next_observations, after.terminated)
            self.steps += environments.count

    def state_dict(self) -> dict[str, Any]:
        """Return everything except the policy on which the next batches depend."""
        return {
            "steps": self.steps,
            "batches": self._batches,
            "generator": self._generator.get_state(),
            "environments": self.environments.state_dict(),
            "buffer": self.buffer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state of `state_dict`.

        Raises:
            ConfigError: the state has another number of environments or another buffer size.
        """
        self.steps, self._batches = state_dict["steps"], state_dict["batches"]
        self._generator.set_state(state_dict["generator"])
        self.environments.load_state_dict(state_dict["environments"])
        self.buffer.load_state_dict(state_dict["buffer"])

    def _act_randomly(self, observations: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Draw actions uniformly."""
        space = self.environments.action_space
        if isinstance(space, gym.spaces.Discrete):
            return torch.randint(int(space.n), (len(observations),), generator=generator)
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        return low + (high - low) * torch.rand(len(observations), *low.shape, generator=generator)

    def _episodes(self, seed: int, count: int) -> DataLoader[Any]:
        seeds = range(seed, seed + count)
        return DataLoader([Episodes(self.env_id, seeds, self.env_options)], batch_size=None)  # type: ignore[arg-type]

    def _problems(self) -> list[Problem]:
        """Return the problems of the options."""
        names = "num_envs buffer_size batch_size train_frequency gradient_steps epoch_steps val_episodes test_episodes"
        least = {**dict.fromkeys(names.split(), 1), "learning_starts": 0, "seed": 0}
        problems = [
            Problem(f"data.{name}", f"expected a whole number, at least {minimum}", getattr(self, name))
            for name, minimum in least.items()
            if type(getattr(self, name)) is not int or getattr(self, name) < minimum
        ]
        if problems:
            return problems
        for name, of in {"train_frequency": "num_envs", "epoch_steps": "train_frequency"}.items():
            if getattr(self, name) % getattr(self, of):
                message = f"expected a multiple of data.{of}, {getattr(self, of)}"
                problems.append(Problem(f"data.{name}", message, getattr(self, name)))
        if self.buffer_size < self.num_envs:
            message = f"expected room for a step of each environment, {self.num_envs}"
            problems.append(Problem("data.buffer_size", message, self.buffer_size))
        return problems


class Batches:
    """The batches of an epoch, made one by one when the run needs them.

    Args:
        data: its current state is continued.
    """

    def __init__(self, data: OffPolicyData) -> None:
        self._data = data
        self.samples_per_batch = data.train_frequency / data.gradient_steps  # in environment steps

    def __len__(self) -> int:
        return self._data.epoch_steps // self._data.train_frequency * self._data.gradient_steps

    def __iter__(self) -> Iterator[Transitions]:
        for _ in range(len(self)):
            yield self._data.next_batch()

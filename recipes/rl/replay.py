"""A replay buffer: the latest transitions of the environments, sampled uniformly."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from lrflow.errors import ConfigError, Problem


class Transitions(NamedTuple):
    """Steps of environments.

    Args:
        observations: before the step; [batch, ...].
        actions: [batch] (int64) of a discrete space, [batch, ...] of a box.
        rewards: [batch], float32.
        next_observations: after the step; of an episode that ended its last one, not the first of the next.
        terminated: 1 where the episode ended by itself; 0 where it went on or was cut off; [batch], float32.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor


class ReplayBuffer:
    """A ring of transitions in preallocated tensors.

    Memory is taken as it fills.

    Args:
        capacity: transitions that it holds; the oldest make room for new ones.
        observation_space: of one environment: a box.
        action_space: of one environment: discrete or a box.
    """

    def __init__(self, capacity: int, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.capacity = capacity
        observation, action = (_dtype_and_shape(space) for space in (observation_space, action_space))
        scalar = (torch.float32, ())
        self._rows = Transitions(
            *(
                torch.zeros(capacity, *shape, dtype=dtype)
                for dtype, shape in (observation, action, scalar, observation, scalar)
            )
        )
        self._added = 0  # over the whole run; the next row is this, modulo the capacity

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, *transitions: np.ndarray) -> None:
        """Take one step of every environment.

        Args:
            transitions: arrays as the fields of `Transitions`, with one row an environment.
        """
        count = len(transitions[0])
        start = self._added % self.capacity
        where: Any = slice(start, start + count)
        if start + count > self.capacity:
            where = torch.arange(start, start + count) % self.capacity
        for rows, values in zip(self._rows, transitions, strict=True):
            rows[where] = torch.as_tensor(values, dtype=rows.dtype)
        self._added += count

    def sample(self, batch_size: int, generator: torch.Generator) -> Transitions:
        """Transitions drawn uniformly with replacement.

        Args:
            batch_size: how many.
            generator: draws them.
        """
        chosen = torch.randint(len(self), (batch_size,), generator=generator)
        return Transitions(*(rows.index_select(0, chosen) for rows in self._rows))

    def state_dict(self) -> dict[str, Any]:
        """What was added so far; the part of the buffer that is still empty takes no room."""
        rows = [rows[: len(self)].clone() for rows in self._rows]
        return {"capacity": self.capacity, "added": self._added, "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`.

        Raises:
            ConfigError: the buffer has another capacity than the one that was saved.
        """
        if state["capacity"] != self.capacity:
            message = f"the checkpoint has a buffer of {state['capacity']:,} transitions"
            raise ConfigError([Problem("data.buffer_size", message, self.capacity)])
        self._added = state["added"]
        for rows, values in zip(self._rows, state["rows"], strict=True):
            rows[: len(values)] = values


def _dtype_and_shape(space: gym.Space[Any]) -> tuple[torch.dtype, tuple[int, ...]]:
    """Of one element, as tensors hold it: numbers with a fraction in float32."""
    if isinstance(space, gym.spaces.Discrete):
        return torch.int64, ()
    assert isinstance(space, gym.spaces.Box)
    dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
    return dtype, space.shape

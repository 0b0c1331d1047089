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
        observations: observations before the step; [batch, ...].
        actions: [batch] (int64) for a discrete space, [batch, ...] for a box.
        rewards: [batch], float32.
        next_observations: observations after the step; at the end of an episode its last, not the first of the next.
        terminated: 1 if the episode reached a terminal state, 0 if it continued or was cut off; [batch], float32.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor


class ReplayBuffer:
    """A ring buffer of transitions in preallocated tensors; memory is used only as it fills.

    Args:
        capacity: maximum number of transitions; new ones replace the oldest.
        observation_space: observation space of one environment, a box.
        action_space: action space of one environment, discrete or a box.
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
        self._added = 0  # over the whole run; the next row is this number modulo the capacity

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, *transitions: np.ndarray) -> None:
        """Add one step of every environment.

        Args:
            transitions: one array per field of `Transitions`, with one row per environment.
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
        """Sample transitions uniformly with replacement.

        Args:
            batch_size: number of transitions.
            generator: random generator.
        """
        chosen = torch.randint(len(self), (batch_size,), generator=generator)
        return Transitions(*(rows.index_select(0, chosen) for rows in self._rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the transitions in the buffer, without its empty part."""
        rows = [rows[: len(self)].clone() for rows in self._rows]
        return {"capacity": self.capacity, "added": self._added, "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`.

        Raises:
            ConfigError: the saved buffer has another capacity.
        """
        if state["capacity"] != self.capacity:
            message = f"the checkpoint has a buffer of {state['capacity']:,} transitions"
            raise ConfigError([Problem("data.buffer_size", message, self.capacity)])
        self._added = state["added"]
        for rows, values in zip(self._rows, state["rows"], strict=True):
            rows[: len(values)] = values


def _dtype_and_shape(space: gym.Space[Any]) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return the dtype and shape of one element; floats are stored as float32."""
    if isinstance(space, gym.spaces.Discrete):
        return torch.int64, ()
    assert isinstance(space, gym.spaces.Box)
    dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
    return dtype, space.shape

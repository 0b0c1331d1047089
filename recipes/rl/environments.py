"""Vector environments whose state can be saved and restored exactly, with any simulator."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lrflow.config.packages import trusted
from lrflow.errors import ConfigError, Problem, did_you_mean

log = logging.getLogger("lrflow")

REMEMBERED = 100  # episodes in the logged mean return, as in CleanRL and stable-baselines3


class Transition(NamedTuple):
    """One step of n environments.

    Args:
        next_observations: [n, size], float32; at the end of an episode its last observation, not the first of the next.
        rewards: [n], float64.
        terminated: [n], bool; the episode reached a terminal state.
        truncated: [n], bool; the episode was cut off by a time limit: the value of its last observation still counts.
    """

    next_observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Episode(gym.Wrapper):
    """Records what is needed to replay the current episode: how it started, and the actions since.

    An episode is a function of the state of its random generator at the reset and of its actions. That holds for
    environments that draw from `self.np_random` only and keep no state between episodes: gymnasium's classic control,
    LunarLander and MuJoCo; not BipedalWalker, which reuses the world of the previous episode.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.total = 0.0  # sum of the rewards
        self._seed: int | None = None
        self._random: Mapping[str, Any] | None = None
        self._actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `seed` reseeds the random generator."""
        self._seed = seed
        self._random = self.unwrapped.np_random.bit_generator.state if seed is None else None
        self._actions = []
        self.total = 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make one step."""
        self._actions.append(action.copy())
        result = self.env.step(action)
        self.total += float(result[1])
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return what `replay` needs, as plain data and a tensor of the actions."""
        return {"seed": self._seed, "random": self._random, "actions": torch.from_numpy(np.array(self._actions))}

    def replay(self, state: Mapping[str, Any]) -> Any:
        """Replay a saved episode.

        Returns:
            Its latest observation.
        """
        if state["random"] is not None:
            self.unwrapped.np_random.bit_generator.state = state["random"]
        observation, _ = self.reset(seed=state["seed"])
        for action in state["actions"].numpy():
            observation, *_ = self.step(action)
        return observation


class Environments:
    """n copies of an environment, stepped together; each starts a new episode as soon as one ends.

    Args:
        env_id: gymnasium id such as `CartPole-v1`; `my_pkg:Mine-v0` first imports my_pkg, which must be trusted.
        count: number of copies.
        seed: environment i is seeded with `seed + i`.
        options: arguments of the environment.

    Attributes:
        count: number of copies.
        observation_space: observation space of one copy.
        action_space: action space of one copy.
        observations: current observations; [count, size], float32.
        returns: returns of the latest finished episodes, at most 100.
        finished: number of finished episodes.

    Raises:
        ConfigError: unknown environment, or one without vector observations.
    """

    def __init__(self, env_id: str, count: int, seed: int = 0, options: Mapping[str, Any] | None = None) -> None:
        self._episodes = [Episode(make_environment(env_id, options)) for _ in range(count)]
        made = iter(self._episodes)
        self._vector = SyncVectorEnv([lambda: next(made)] * count, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        self.count = count
        self.observation_space, self.action_space = _spaces(self._episodes[0])
        self.returns: deque[float] = deque(maxlen=REMEMBERED)
        self.finished = 0
        first, _ = self._vector.reset(seed=seed)
        self.observations = _float32(first)

    def step(self, actions: np.ndarray) -> Transition:
        """Step every environment.

        Args:
            actions: [count] of integers, or [count, size] within the bounds of the action space.
        """
        totals = [episode.total for episode in self._episodes]
        observations, rewards, terminated, truncated, infos = self._vector.step(actions)
        self.observations = _float32(observations)
        following = self.observations
        if "final_obs" in infos:
            following = following.copy()
            for index in np.flatnonzero(terminated | truncated):
                following[index] = infos["final_obs"][index]
                self.returns.append(totals[index] + float(rewards[index]))
                self.finished += 1
        return Transition(following, rewards, terminated, truncated)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, as plain data and tensors."""
        return {
            "episodes": [episode.state_dict() for episode in self._episodes],
            "observations": torch.from_numpy(self.observations.copy()),
            "returns": list(self.returns),
            "finished": self.finished,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every environment by replaying its current episode.

        Raises:
            ConfigError: the state has another number of environments.
        """
        if len(state["episodes"]) != self.count:
            message = f"the checkpoint has {len(state['episodes'])} environments"
            raise ConfigError([Problem("data.num_envs", message, self.count)])
        replayed = [one.replay(saved) for one, saved in zip(self._episodes, state["episodes"], strict=True)]
        self.observations = state["observations"].numpy().copy()
        if not np.array_equal(_float32(np.stack(replayed)), self.observations):
            log.warning("the environments do not repeat an episode exactly: the resumed run is not exact")
        self.returns = deque(state["returns"], maxlen=REMEMBERED)
        self.finished = state["finished"]

    def close(self) -> None:
        """Close windows and simulators."""
        self._vector.close()


def make_environment(
    env_id: str, options: Mapping[str, Any] | None = None, render_mode: str | None = None
) -> gym.Env[np.ndarray, Any]:
    """Make one environment with vector observations.

    Args:
        env_id: gymnasium id; `my_pkg:Mine-v0` first imports my_pkg, which must be trusted.
        options: arguments of the environment.
        render_mode: `rgb_array` for pictures; None: no rendering.

    Raises:
        ConfigError: unknown environment, missing package, or unsupported action space.
    """
    module = env_id.rpartition(":")[0]
    if module and not any(f"{module}.".startswith(f"{package}.") for package in trusted()):
        message = f"{module} is not trusted, so it is not imported"
        raise ConfigError([Problem("data.env_id", message, env_id, f"trust={module.partition('.')[0]}")])
    drawn: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}
    try:
        env = gym.make(env_id, disable_env_checker=True, **drawn, **(options or {}))
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError([Problem("data.env_id", f"{error}", env_id, "pip install 'lrflow[rl]'")]) from None
    except gym.error.UnregisteredEnv:
        hint = did_you_mean(env_id, gym.registry)
        raise ConfigError([Problem("data.env_id", "there is no such environment", env_id, hint)]) from None
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ConfigError([Problem("data.env_id", f"{error}".rstrip("."), env_id)]) from None
    except TypeError as error:
        reason = f"{error}".partition(" was raised from")[0]
        raise ConfigError(
            [Problem("data.env_options", f"{env_id} refuses them: {reason}", dict(options or {}))]
        ) from None
    actions = env.action_space
    vector = isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1
    if not vector and not (isinstance(actions, gym.spaces.Discrete) and not actions.start):
        message = f"expected actions that are vectors (Box), or whole numbers from 0 (Discrete), not {actions}"
        raise ConfigError([Problem("data.env_id", message, env_id)])
    vectors = isinstance(env.observation_space, gym.spaces.Box) and len(env.observation_space.shape) == 1
    return env if vectors else gym.wrappers.FlattenObservation(env)


def spaces(
    env_id: str, options: Mapping[str, Any] | None = None
) -> tuple[gym.spaces.Box, gym.spaces.Discrete | gym.spaces.Box]:
    """Return the observation and action spaces of an environment."""
    env = make_environment(env_id, options)
    found = _spaces(env)
    env.close()
    return found


def _spaces(env: gym.Env[Any, Any]) -> tuple[gym.spaces.Box, gym.spaces.Discrete | gym.spaces.Box]:
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert isinstance(env.action_space, gym.spaces.Discrete | gym.spaces.Box)
    return env.observation_space, env.action_space


def _float32(observations: np.ndarray) -> np.ndarray:
    """Copy to float32; the environments write the next observations into the same array."""
    return observations.astype(np.float32)

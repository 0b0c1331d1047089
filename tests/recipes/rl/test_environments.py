"""Environments that are saved and repeated, and the episodes of an evaluation."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.errors import ConfigError

pytest.importorskip("gymnasium", reason="the extra rl is not installed")
import gymnasium as gym

from lrflow.recipes.rl.environments import Environments, make_environment, spaces
from lrflow.recipes.rl.evaluation import Episodes, save_gif

CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its warnings to MUJOCO_LOG.TXT in the working directory."""
    monkeypatch.chdir(tmp_path)


class Actions:
    """Random actions for n environments, the same for the same seed."""

    def __init__(self, space: Any, count: int) -> None:
        self.space, self.count, self.random = space, count, np.random.default_rng(0)

    def __call__(self) -> np.ndarray:
        if isinstance(self.space, gym.spaces.Discrete):
            return self.random.integers(self.space.n, size=self.count)
        size = (self.count, *self.space.shape)
        return self.random.uniform(self.space.low, self.space.high, size=size).astype(np.float32)


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        *((env_id, {}) for env_id in CLASSIC),
        ("LunarLander-v3", {}),
        ("LunarLander-v3", {"continuous": True, "enable_wind": True}),
        ("InvertedPendulum-v5", {}),
        ("HalfCheetah-v5", {}),
    ],
)
def test_environments_go_on_exactly_where_they_were_saved(env_id: str, options: dict[str, Any]) -> None:
    pytest.importorskip({"L": "Box2D", "I": "mujoco", "H": "mujoco"}.get(env_id[0], "gymnasium"))
    first = Environments(env_id, 2, seed=1, options=options)
    actions = Actions(first.action_space, 2)
    for _ in range(270):
        first.step(actions())
    saved = through_a_file(first.state_dict())
    second = Environments(env_id, 2, seed=7, options=options)
    for _ in range(20):
        second.step(actions())
    second.load_state_dict(saved)
    assert np.array_equal(first.observations, second.observations)
    for _ in range(270):  # beyond the ends of episodes, where new ones draw random numbers
        chosen = actions()
        for one, other in zip(first.step(chosen), second.step(chosen), strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(first.observations, second.observations)
    assert first.returns == second.returns
    assert first.finished == second.finished


def test_a_step_shows_the_last_observation_of_an_episode_and_the_first_of_the_next() -> None:
    environments = Environments("CartPole-v1", 2, seed=0)
    reference = make_environment("CartPole-v1")
    reference.reset(seed=0)
    for length in range(1, 100):
        found = environments.step(np.array([1, 1]))
        observation, _, terminated, _, _ = reference.step(1)
        assert np.array_equal(found.next_observations[0], observation)
        assert found.terminated[0] == terminated
        if terminated:
            assert np.array_equal(environments.observations[0], reference.reset()[0])
            assert environments.returns[0] == length
            return
        assert np.array_equal(environments.observations[0], observation)
    raise AssertionError("the pole never fell")


def test_a_time_limit_is_no_end() -> None:
    environments = Environments("Pendulum-v1", 1)
    for _ in range(199):
        found = environments.step(np.zeros((1, 1), np.float32))
        assert not found.truncated[0]
    found = environments.step(np.zeros((1, 1), np.float32))
    assert found.truncated[0]
    assert not found.terminated[0]


def test_another_number_of_environments_is_refused() -> None:
    state = Environments("CartPole-v1", 2).state_dict()
    with pytest.raises(ConfigError, match="the checkpoint has 2 environments"):
        Environments("CartPole-v1", 3).load_state_dict(state)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("CartPol-v1", {}, "did you mean CartPole-v1"),
        ("CartPole-v1", {"gravity": 3}, "data.env_options"),
        ("nobody:Env-v0", {}, "nobody is not trusted"),
    ],
)
def test_mistakes_are_told(env_id: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_environment(env_id, options)


OWN = """
import gymnasium as gym
import numpy as np

class Corridor(gym.Env):
    observation_space = gym.spaces.Dict(place=gym.spaces.Discrete(4), height=gym.spaces.Box(-1, 1))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self.look(), {}

    def look(self):
        return {"place": self.place, "height": self.np_random.uniform(-1, 1, 1).astype("f")}

    def step(self, action):
        self.place += int(action)
        return self.look(), 1.0, self.place == 3, False, {}

gym.register("Corridor-v0", Corridor)
"""


def test_an_environment_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_envs.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LRFLOW_TRUST", "my_envs")
    try:
        observation_space, action_space = spaces("my_envs:Corridor-v0")
        assert observation_space.shape == (5,)
        assert action_space.n == 2
        first = Environments("my_envs:Corridor-v0", 2)
        first.step(np.array([1, 0]))
        second = Environments("my_envs:Corridor-v0", 2, seed=5)
        second.load_state_dict(through_a_file(first.state_dict()))
        assert np.array_equal(first.step(np.array([1, 1]))[0], second.step(np.array([1, 1]))[0])
    finally:
        gym.registry.pop("Corridor-v0", None)
        sys.modules.pop("my_envs", None)


def test_an_environment_that_cannot_be_repeated_is_told(caplog: pytest.LogCaptureFixture) -> None:
    environments = Environments("CartPole-v1", 1)
    environments.step(np.array([1]))
    state = environments.state_dict()
    state["observations"] = state["observations"] + 1  # as if it kept something beside its generator
    with caplog.at_level(logging.WARNING, "lrflow"):
        environments.load_state_dict(state)
    assert "do not repeat" in caplog.text


def test_episodes_do_not_depend_on_how_many_are_played_at_once() -> None:
    def policy(observations: np.ndarray) -> np.ndarray:
        return (observations[:, 2] > 0).astype(np.int64)

    expected = []
    for seed in range(7):
        env, total, done = make_environment("CartPole-v1"), 0.0, False
        observation, _ = env.reset(seed=seed)
        while not done:
            observation, reward, terminated, truncated, _ = env.step(policy(observation[None])[0])
            total, done = total + reward, terminated or truncated
        expected.append(total)
    for at_once in (1, 3, 20):
        assert Episodes("CartPole-v1", range(7), at_once=at_once).play(policy).tolist() == expected


def test_an_episode_is_filmed(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "episode.gif"
    policy = lambda observations: np.zeros(len(observations), dtype=np.int64)  # noqa: E731
    assert Episodes("CartPole-v1", [0]).film(policy, path) is None
    with image.open(path) as gif:
        assert gif.n_frames > 5
        assert gif.size[0] == 240


def test_what_cannot_be_drawn_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = Episodes("CartPole-v1", [0])
    monkeypatch.setattr("lrflow.recipes.rl.evaluation.make_environment", lambda *_, **__: SimpleNamespace())
    assert "no episode.gif: CartPole-v1 cannot be drawn here" in str(
        episodes.film(lambda x: x, tmp_path / "episode.gif")
    )


def test_a_long_episode_is_thinned_out_and_stays_in_time(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = [np.zeros((8, 500, 3), dtype=np.uint8) for _ in range(500)]
    for index, frame in enumerate(frames):
        frame[:, :index] = 255  # each one differs from the one before
    save_gif(frames, 0.02, tmp_path / "x.gif")
    with image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == pytest.approx(125, abs=8)  # equal ones are merged
        assert gif.info["duration"] == 80

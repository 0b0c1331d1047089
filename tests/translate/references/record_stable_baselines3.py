"""Writes stable_baselines3.json: the LR and the clip range of each update that Stable-Baselines3 makes by itself.

    pip install stable-baselines3==2.9.2    # in an environment of its own: lrflow does not need it
    python tests/translate/references/record_stable_baselines3.py

Each entry has the keys of rl-baselines3-zoo, which its `ExperimentManager` turns into arguments as `create` does here.
"""

from __future__ import annotations

import json
import operator
from functools import partial
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env

CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ppo, linear, and a last rollout beyond the end": (
        "ppo",
        "CartPole-v1",
        {"n_timesteps": 1000, "n_envs": 4, "n_steps": 16, "batch_size": 32, "n_epochs": 2,
         "learning_rate": "lin_1e-3", "clip_range": "lin_0.2"},
    ),
    "ppo, linear, and rollouts that fill the run": (
        "ppo",
        "CartPole-v1",
        {"n_timesteps": 640, "n_envs": 2, "n_steps": 32, "batch_size": 64, "n_epochs": 3, "learning_rate": "lin_3e-4"},
    ),
    "ppo, constant": (
        "ppo",
        "CartPole-v1",
        {"n_timesteps": 300, "n_envs": 2, "n_steps": 32, "batch_size": 32, "n_epochs": 1, "learning_rate": 1e-3},
    ),
    "a2c, linear": ("a2c", "CartPole-v1", {"n_timesteps": 333, "n_envs": 4, "n_steps": 5, "learning_rate": "lin_7e-4"}),
    "dqn, linear": (
        "dqn",
        "CartPole-v1",
        {"n_timesteps": 500, "learning_starts": 100, "train_freq": 16, "gradient_steps": 8,
         "learning_rate": "lin_2e-3", "batch_size": 8},
    ),
    "dqn, constant": (
        "dqn",
        "CartPole-v1",
        {"n_timesteps": 500, "learning_starts": 96, "train_freq": 16, "gradient_steps": 4, "batch_size": 8},
    ),
    "sac, linear": (
        "sac",
        "Pendulum-v1",
        {"n_timesteps": 300, "learning_starts": 200, "n_envs": 2, "train_freq": 3, "gradient_steps": -1,
         "learning_rate": "lin_7.3e-4", "batch_size": 8},
    ),
}  # fmt: skip


def create(algorithm: str, env_id: str, given: dict[str, Any]) -> Any:
    """Return the agent of an entry of rl-zoo."""
    arguments = {key: value for key, value in given.items() if key not in ("n_timesteps", "n_envs")}
    for key in ("learning_rate", "clip_range"):
        if isinstance(arguments.get(key), str):
            arguments[key] = partial(operator.mul, float(arguments[key].removeprefix("lin_")))
    kind = getattr(stable_baselines3, algorithm.upper())
    return kind("MlpPolicy", make_vec_env(env_id, given.get("n_envs", 1), seed=0), device="cpu", seed=0, **arguments)


def trained(algorithm: str, env_id: str, given: dict[str, Any]) -> dict[str, list[float]]:
    """Train an agent; return what each step of its optimizer was made with."""
    agent = create(algorithm, env_id, given)
    rates: list[float] = []
    clips: list[float] = []
    optimizer = agent.actor.optimizer if algorithm == "sac" else agent.policy.optimizer
    step = optimizer.step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        if algorithm == "ppo":
            clips.append(agent.clip_range(agent._current_progress_remaining))
        return step(*args, **kwargs)

    optimizer.step = recorded
    agent.learn(given["n_timesteps"])
    return {"lr": rates, "clip_range": clips}


def main() -> None:
    """Write the file."""
    torch.set_num_threads(1)
    found = {
        name: {"algorithm": config[0], "env": config[1], "config": config[2], **trained(*config)}
        for name, config in CONFIGS.items()
    }
    runs = ",\n".join(f"{json.dumps(name)}: {json.dumps(run)}" for name, run in found.items())
    path = Path(__file__).with_name("stable_baselines3.json")
    path.write_text(f'{{"stable_baselines3": "{stable_baselines3.__version__}", "runs": {{\n{runs}\n}}}}\n')


if __name__ == "__main__":
    main()

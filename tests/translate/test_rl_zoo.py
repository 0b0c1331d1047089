"""Hyperparameters of rl-baselines3-zoo against the LRs with which Stable-Baselines3 (2.9.2) trained by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import lrflow
from lrflow.errors import ConfigError
from lrflow.translate import Facts, translate

RUNS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "references" / "stable_baselines3.json").read_text(encoding="utf-8")
)["runs"]


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_the_lr_of_each_update_is_that_of_stable_baselines3(tmp_path: Path) -> None:
    """Of the whole run, whose length the recipe counts itself; updates at an LR of 0 or below are left out."""
    for name, run in RUNS.items():
        path = written(tmp_path, f"{run['algorithm']}.yml", {run["env"]: run["config"]})
        found = translate(path, Facts())
        expected = [lr for lr in run["lr"] if lr > 0]
        left_out = len(run["lr"]) - len(expected)
        if not left_out:
            assert found.options["schedule"] == "constant", name
            assert (found.left, {*run["lr"]}) == ({}, {found.values["optimizer"]["lr"]}), name
            epoch = found.values["data"].get("update_epochs", 0) * found.values["data"].get("minibatches", 0)
            trainer = found.values["trainer"]
            assert (trainer.get("max_steps") or trainer["max_epochs"] * epoch) == len(expected), name
            continue
        written(tmp_path, "options/recipe/translated.yaml", found.text())
        plan = lrflow.plan("recipe=translated", config_dir=tmp_path / "options")
        steps = np.arange(plan.horizon.steps)
        assert (plan.horizon.steps, [*found.left]) == (len(expected), ["n_timesteps"]), name
        for lrs in plan.lr(steps).T:
            np.testing.assert_allclose(lrs, expected, rtol=1e-12, err_msg=name)
        for scalar in plan.scalars:
            if scalar.name == "clip_range":
                np.testing.assert_allclose(scalar(steps, plan.horizon), run["clip_range"][: len(steps)], rtol=1e-12)
        assert ("clip_range" in run["config"]) == any(scalar.name == "clip_range" for scalar in plan.scalars), name


def test_settings_of_the_algorithms(tmp_path: Path) -> None:
    content = {
        "CartPole-v1": {
            "n_timesteps": 1e5, "n_envs": 3, "n_steps": 32, "batch_size": 50, "normalize": "dict(norm_reward=False)",
            "policy_kwargs": "dict(net_arch=dict(pi=[32], vf=[32]), log_std_init=-2, activation_fn=nn.ReLU)",
            "clip_range_vf": -1, "vf_coef": 0.7, "frame_stack": 4, "gamm": 0.9,
        },
        "default": {"n_timesteps": 1000},
    }  # fmt: skip
    found = translate(written(tmp_path, "ppo.yml", content), Facts(env="CartPole-v1"))
    assert found.values["data"]["minibatches"] * found.values["data"]["update_epochs"] == 10
    model = found.values["model"]
    assert (model["hidden"], model["log_std"], model["clip_value"], model["clip"]) == ([32], -2, None, 0.2)
    assert (model["normalize_observations"], found.values["data"]["normalize_rewards"]) == (True, False)
    assert found.values["optimizer"] == {"lr": 3e-4, "betas": [0.9, 0.999], "eps": 1e-5, "weight_decay": 0.0}
    left = {key.removeprefix("CartPole-v1."): why for key, why in found.left.items()}
    assert {*left} == {"policy_kwargs.activation_fn", "batch_size", "frame_stack", "gamm"}
    assert "did you mean gamma?" in left["gamm"]
    default = translate(tmp_path / "ppo.yml", Facts(env="default"))
    assert "env_id" not in default.values["data"]
    assert any("data.env_id" in note for note in default.notes)
    sac = translate(
        written(tmp_path, "sac.yml", {"Pendulum-v1": {"n_timesteps": 2e4, "ent_coef": "auto_0.1"}}), Facts()
    )
    assert (sac.values["model"]["temperature"], sac.values["model"]["hidden"]) == (0.1, [256, 256])
    dqn = {"n_timesteps": 1e5, "train_freq": [1, "episode"], "target_update_interval": 30, "learning_starts": 9e4}
    dqn_found = translate(written(tmp_path, "dqn.yml", {"CartPole-v1": dqn}), Facts())
    assert dqn_found.values["scalars"]["epsilon"]["from"] == 0.05
    assert {*dqn_found.left} == {"train_freq"}


SAVED = """!!python/object/apply:collections.OrderedDict
- - - learning_rate
    - lin_0.001
  - - n_timesteps
    - 5000.0
  - - policy
    - MlpPolicy
"""


def test_the_folder_of_a_trained_agent(tmp_path: Path) -> None:
    """config.yml has the hyperparameters, args.yml beside it the algorithm, the environment and what was typed."""
    args = "!!python/object/apply:collections.OrderedDict\n- - - algo\n    - a2c\n  - - env\n    - CartPole-v1\n"
    written(tmp_path, "args.yml", args + "  - - n_timesteps\n    - 10000\n  - - seed\n    - 7\n")
    found = translate(written(tmp_path, "config.yml", SAVED), Facts())
    assert (found.base, found.values["data"]["env_id"], found.values["seed"]) == ("rl_ppo", "CartPole-v1", 7)
    assert found.values["trainer"]["max_epochs"] == 1999


def test_large_rollouts_and_deep_texts_are_read_at_once(tmp_path: Path) -> None:
    """999,999,937 is a prime: no batch of 64 steps divides the rollout, only a single batch does."""
    deep = f"dict(a={'-' * 900}1)"
    text = f"A-v1: {{n_timesteps: 9e9, n_steps: 999999937, normalize: '{deep}', policy_kwargs: '{deep}'}}\n"
    found = translate(written(tmp_path, "ppo.yml", text), Facts())
    assert found.values["data"]["minibatches"] == 1


@pytest.mark.parametrize(
    ("name", "text", "env", "message"),
    [
        ("ppo.yml", "A-v1: {n_timesteps: 9}\nB-v1: {n_timesteps: 9}\n", None, r"2 environments(.|\n)*A-v1, B-v1"),
        ("ppo.yml", "A-v1: {n_timesteps: 9}\n", "A-v2", "did you mean A-v1"),
        ("td3.yml", "A-v1: {n_timesteps: 9}\n", None, "no recipe for"),
        ("mine.yml", "A-v1: {n_timesteps: 9}\n", None, "names no algorithm"),
        ("ppo.yml", "A-v1: {n_timesteps: 9, learning_rate: lin_fast}\n", None, r"A-v1\.learning_rate = 'lin_fast'"),
        ("a2c.yml", "A-v1: {n_timesteps: 5, learning_rate: lin_1}\n", None, "no update is made"),
        ("dqn.yml", "A-v1: {n_timesteps: 9e9, train_freq: [4, epochs]}\n", None, "expected a number of steps"),
        ("ppo.yml", "!!python/object/apply:collections.OrderedDict\n- 3\n", None, "expected the pairs"),
        ("ppo.yml", "!!python/object/apply:os.system [ls]\n", None, "could not determine a constructor"),
        ("ppo.yml", "A-v1: {n_timesteps: 9e9, policy_kwargs: [3]}\n", None, "expected keys with values"),
        ("ppo.yml", f"A-v1: {{n_timesteps: 1{'0' * 400}}}\n", None, "n_timesteps = 10+: expected a number"),
        ("ppo.yml", "A-v1: {n_timesteps: 9e9, n_steps: 1000000000039}\n", None, "rollouts of at most 1,000,000,000"),
        ("sac.yml", f"A-v1: {{n_timesteps: 9e9, train_freq: 1{'0' * 400}}}\n", None, "expected a number of steps"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_problem(tmp_path: Path, name: str, text: str, env: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        translate(written(tmp_path, name, text), Facts(env=env))
    assert len(caught.value.problems) == 1

"""PPO: its advantages and its loss against torchrl's, its policies, its normalisation, and resumed runs."""

from __future__ import annotations

import csv
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.tasks import train
from lrflow.training.machine import varies

pytest.importorskip("gymnasium", reason="the extra rl is not installed")
import gymnasium as gym

from lrflow.recipes.rl_ppo.actors import CategoricalActor, GaussianActor, RunningNorm
from lrflow.recipes.rl_ppo.data import Batch, Rollouts, generalized_advantages
from lrflow.recipes.rl_ppo.model import PPO

pytestmark = pytest.mark.usefixtures("undrawn")


def random_rollout(steps: int = 9, count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return (
        random.normal(size=(steps, count)),
        random.normal(size=(steps + 1, count)),
        random.random((steps, count)) < 0.2,
    )


def test_advantages_by_hand() -> None:
    rewards, values = np.array([[1.0], [2.0], [3.0]]), np.array([[0.5], [1.0], [1.5], [2.0]])
    last = 3 + 0.5 * 2.0 - 1.5
    middle = 2 - 1.0  # the episode ends here: nothing that comes later counts
    first = 1 + 0.5 * 1.0 - 0.5 + 0.5 * 0.8 * middle
    found = generalized_advantages(rewards, values, np.array([[False], [True], [False]]), 0.5, 0.8)
    assert found[:, 0].tolist() == pytest.approx([first, middle, last])


def test_advantages_are_those_of_torchrl() -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional", reason="the reference is not installed")
    rewards, values, ended = random_rollout()

    def columns(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).T[..., None]  # [environments, steps, 1]

    done = columns(ended)
    expected, _ = functional.generalized_advantage_estimate(
        0.97, 0.9, columns(values[:-1]), columns(values[1:]), columns(rewards), done, done
    )
    found = generalized_advantages(rewards, values, ended, 0.97, 0.9)
    assert np.allclose(found, expected[..., 0].T.numpy(), atol=1e-6)


def actor(kind: str) -> CategoricalActor | GaussianActor:
    torch.manual_seed(0)
    made = {
        "categorical": lambda: CategoricalActor(4, gym.spaces.Discrete(3), [8]),
        "gaussian": lambda: GaussianActor(4, gym.spaces.Box(-1, 1, (2,)), [8], log_std=-0.3),
    }[kind]()
    for parameter in made.net[-1].parameters():  # policies differ from one another only where this is not small
        nn.init.normal_(parameter)
    return made


def distribution(policy: CategoricalActor | GaussianActor, observations: torch.Tensor) -> Any:
    outputs = policy.net(observations)
    if isinstance(policy, CategoricalActor):
        return Categorical(logits=outputs)
    return Independent(Normal(outputs, policy.log_std.exp()), 1)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_policies_are_the_distributions_of_torch(kind: str) -> None:
    policy, observations = actor(kind), torch.randn(20, 4)
    actions = policy.sample(observations, policy.noise(20))
    log_probs, entropy = policy.log_prob(observations, actions)
    expected = distribution(policy, observations)
    assert torch.allclose(log_probs, expected.log_prob(actions), atol=1e-6)
    assert torch.allclose(entropy, expected.entropy(), atol=1e-6)
    assert torch.equal(policy.mode(observations), expected.mode)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_actions_are_drawn_as_the_policy_says(kind: str) -> None:
    policy, observation = actor(kind), torch.randn(1, 4)
    drawn = policy.sample(observation.expand(20_000, 4), policy.noise(20_000))
    expected = distribution(policy, observation)
    if kind == "categorical":
        share = torch.bincount(drawn, minlength=3) / len(drawn)
        assert torch.allclose(share, expected.probs[0], atol=0.015)
    else:
        assert torch.allclose(drawn.mean(0), expected.mean[0], atol=0.03)
        assert torch.allclose(drawn.std(0), expected.stddev[0], atol=0.03)


@pytest.mark.parametrize("clip_value", [None, 0.2])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_and_its_gradients_are_those_of_torchrl(clip_value: float | None, normalize: bool) -> None:
    objectives = pytest.importorskip("torchrl.objectives", reason="the independent reference is not installed")
    modules, tensordict = pytest.importorskip("torchrl.modules"), pytest.importorskip("tensordict")
    nets = pytest.importorskip("tensordict.nn")
    torch.manual_seed(1)
    agent = PPO(
        "CartPole-v1",
        hidden=[8],
        clip_value=clip_value,
        value_coefficient=0.5,
        entropy_coefficient=0.01,
        normalize_advantages=normalize,
    )
    for parameter in agent.parameters():
        nn.init.normal_(parameter, std=0.5)
    size = 64
    batch = Batch(
        observations=torch.randn(size, 4),
        actions=torch.randint(2, (size,)),
        log_probs=-torch.rand(size) - 0.2,
        values=torch.randn(size),
        advantages=torch.randn(size),
        returns=torch.randn(size),
    )
    loss = agent.training_step(batch, 0)
    loss.backward()
    found = [parameter.grad.clone() for parameter in agent.parameters()]
    agent.zero_grad()

    policy = modules.ProbabilisticActor(
        nets.TensorDictModule(agent.actor.net, ["observation"], ["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    critic = modules.ValueOperator(agent.critic, in_keys=["observation"])
    theirs = objectives.ClipPPOLoss(
        policy,
        critic,
        clip_epsilon=0.2,
        entropy_coeff=0.01,
        critic_coeff=0.5,
        loss_critic_type="l2",
        normalize_advantage=normalize,
        clip_value=clip_value,
    )
    data = tensordict.TensorDict(
        {
            "observation": batch.observations,
            "action": batch.actions,
            "action_log_prob": batch.log_probs,
            "advantage": batch.advantages[:, None],
            "value_target": batch.returns[:, None],
            "state_value": batch.values[:, None],
        },
        [size],
    )
    losses = theirs(data)
    expected = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
    assert torch.allclose(loss, expected, atol=1e-5)
    expected.backward()
    for ours, parameter in zip(found, theirs.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad, atol=1e-5)


def test_running_statistics_are_those_of_all_that_was_seen() -> None:
    torch.manual_seed(0)
    norm, parts = RunningNorm(3), [torch.randn(n, 3) * 4 + 7 for n in (5, 1, 40)]
    for part in parts:
        norm.update(part)
    seen = torch.cat(parts).double()
    assert torch.allclose(norm.mean, seen.mean(0))
    assert torch.allclose(norm.var, seen.var(0, unbiased=False))
    assert norm(torch.full((1, 3), 1e6)).tolist() == [[10.0] * 3]


def test_rewards_are_divided_by_the_scale_of_the_discounted_return() -> None:
    data = Rollouts("CartPole-v1", num_envs=2, steps=3, minibatches=1, gamma=0.5, normalize_rewards=True)
    rewards = np.array([[1.0, 2.0], [1.0, 0.0], [4.0, 1.0]])
    ended = np.array([[False, False], [True, False], [False, False]])
    sums = [1.0, 2.0, 1.5, 1.0, 4.0, 1.5]  # after an end they begin again
    assert np.allclose(data._normalized(rewards, ended), rewards / np.sqrt(np.var(sums) + 1e-8))
    assert data._discounted.tolist() == [4.0, 1.5]


def test_a_rollout_holds_what_the_policy_did() -> None:
    torch.manual_seed(0)
    agent = PPO("Pendulum-v1")
    data = Rollouts("Pendulum-v1", num_envs=2, steps=250, minibatches=5, gamma=0.9)
    data.setup("fit")
    rollout = data._collect(agent)
    log_probs, _ = agent.actor.log_prob(rollout.observations, rollout.actions)
    assert torch.allclose(log_probs, rollout.log_probs)
    assert torch.allclose(agent.critic(rollout.observations)[:, 0], rollout.values)
    assert torch.allclose(rollout.returns, rollout.advantages + rollout.values)
    # Step 200 is a time limit: its return is the reward and the discounted value of an observation that is not in the
    # rollout, so that without lambda the advantage of the step before it is a whole step's error.
    env = gym.make("Pendulum-v1")
    env.reset(seed=0)
    for step in range(200):
        action = np.clip(rollout.actions[2 * step].numpy(), -2, 2)
        observation, reward, _, truncated, _ = env.step(action)
    assert truncated
    beyond = agent.critic(torch.from_numpy(observation).float())
    assert rollout.returns[2 * 199].item() == pytest.approx(reward + 0.9 * beyond.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"minibatches": 3}, ["data.minibatches"]),
        ({"num_envs": 0, "test_episodes": 1.5, "gamma": 1.1}, ["data.num_envs", "data.test_episodes", "data.gamma"]),
    ],
)
def test_options_that_cannot_be_are_told_at_once(options: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as told:
        Rollouts("CartPole-v1", **{"num_envs": 2, "steps": 32, **options})
    assert [problem.key for problem in told.value.problems] == keys


def test_several_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices = 2: expected 1"):
        ppo(tmp_path, "recipe=rl_ppo", "trainer=ddp", "trainer.accelerator=cpu")


def test_actions_are_clipped_only_on_their_way_into_the_environment() -> None:
    agent = PPO("Pendulum-v1", log_std=3.0, deterministic=False)
    torch.manual_seed(0)
    drawn = agent.actor.sample(torch.zeros(50, 3), agent.actor.noise(50)).detach()
    assert drawn.abs().max() > 2
    assert np.abs(agent.for_environment(drawn)).max() == 2
    acted = agent.policy(np.zeros((50, 3), np.float32))
    assert acted.dtype == np.float32
    assert len(np.unique(acted)) > 2
    agent.deterministic = True
    assert len(np.unique(agent.policy(np.zeros((50, 3), np.float32)))) == 1


QUICK = ["fast=true", "task.test=false", "trainer.progress=false"]


def ppo(folder: Path, *overrides: str) -> Path:
    return Path(train.run(compose([*QUICK, *overrides, f"output={folder}"]))["folder"])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: row[key] for key in row if not varies(key)} for row in csv.DictReader(file)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(max(folder.glob("checkpoints/step-*.ckpt")), weights_only=True)
    return state["state_dict"]


def filled(folder: Path) -> list[dict[str, str]]:
    """Return the cells with a value: what was measured before a run was resumed is no column of its new folder."""
    return [{name: text for name, text in row.items() if text} for row in rows(folder)]


@pytest.mark.parametrize(
    "recipe",
    [
        ["recipe=rl_ppo", "feedback=kl"],
        ["recipe=rl_ppo_continuous", "data.normalize_rewards=true", "model.normalize_observations=true"],
    ],
)
def test_from_any_of_its_checkpoints_a_run_goes_on_exactly(tmp_path: Path, recipe: list[str]) -> None:
    settings = [*recipe, "trainer.checkpoint.every=3", "trainer.checkpoint.keep=null"]  # iterations have 4 steps
    whole = ppo(tmp_path, *settings)
    for step in (3, 9, 12):
        resumed = ppo(tmp_path, *settings, f"resume.from={whole}/checkpoints/step-{step:07d}.ckpt")
        assert resumed != whole
        assert filled(resumed) == [row for row in filled(whole) if int(row["step"]) >= step]
        for one, other in zip(weights(whole).values(), weights(resumed).values(), strict=True):
            assert torch.equal(one, other)


def test_actor_and_critic_have_plans_of_their_own(tmp_path: Path) -> None:
    rules = "[{name: actor, match: 'actor.*'}, {name: critic, match: 'critic.*', lr: 1e-2}]"
    first = rows(ppo(tmp_path, "recipe=rl_ppo", f"layers.rules={rules}"))[0]
    assert float(first["lr/critic"]) / float(first["lr/actor"]) == pytest.approx(1e-2 / 2.5e-4)


def test_what_is_logged_of_an_iteration(tmp_path: Path) -> None:
    logged = [row for row in rows(ppo(tmp_path, "recipe=rl_ppo", "optimizer.lr=1e-2")) if row["train/kl"]]
    assert [int(row["step"]) for row in logged] == [3, 7, 11, 15]
    assert all(float(row["train/kl"]) > 0 for row in logged)
    assert all(0 < float(row["train/entropy"]) < math.log(2) for row in logged)


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(python: Any, lrflow: Any, tmp_path: Path) -> None:
    settings = ["recipe=rl_ppo", "trainer.max_epochs=60", "trainer.val_every=100%", "trainer.checkpoint.every=3"]
    whole = ppo(tmp_path / "whole", *settings)
    process = python("-m", "lrflow", *QUICK, *settings, f"output={tmp_path}/killed", cwd=tmp_path)
    saved = "killed/*/checkpoints/step-00000[3-9][0-9].ckpt"
    assert process.interrupt(signal.SIGKILL, lambda: list(tmp_path.glob(saved))) == -signal.SIGKILL
    (killed,) = tmp_path.glob("killed/*/")
    done = lrflow(f"resume={killed}", "task.test=false")
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    assert "warning" not in done.stdout + done.stderr
    assert rows(killed) == rows(whole)
    for one, other in zip(weights(whole).values(), weights(killed).values(), strict=True):
        assert torch.equal(one, other)

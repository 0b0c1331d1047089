"""Batches of a replay buffer that a policy fills: what is counted, and what a run goes on from."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lrflow.errors import ConfigError

pytest.importorskip("gymnasium", reason="the extra rl is not installed")
from lrflow.recipes.rl.off_policy import OffPolicyData


class Policy:
    """Takes the first action, and remembers when it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def explore(self, observations: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        self.asked.append(steps)
        return torch.randint(2, (len(observations),), generator=generator)


def data(**options: Any) -> OffPolicyData:
    settings = {"env_id": "CartPole-v1", "batch_size": 8, "learning_starts": 10, "epoch_steps": 12, **options}
    made = OffPolicyData(**settings)
    made.trainer = SimpleNamespace(world_size=1, lightning_module=Policy())  # type: ignore[assignment]
    made.setup("fit")
    return made


def test_a_batch_comes_after_the_steps_that_belong_before_it() -> None:
    made = data(train_frequency=4, gradient_steps=2)
    loader = made.train_dataloader()
    assert (len(loader), loader.samples_per_batch) == (6, 2.0)
    steps = []
    for _ in range(2):
        for batch in loader:
            assert len(batch.rewards) == 8
            steps.append(made.steps)
    assert steps == [14, 14, 18, 18, 22, 22, 26, 26, 30, 30, 34, 34]
    assert made.trainer.lightning_module.asked == list(range(10, 34))
    assert len(made.buffer) == 34


def test_steps_are_counted_over_all_environments() -> None:
    made = data(num_envs=3, train_frequency=6, learning_starts=10)
    next(iter(made.train_dataloader()))
    assert made.steps == len(made.buffer) == 12 + 6
    assert made.trainer.lightning_module.asked == [12, 15]


def test_transitions_follow_one_another_until_an_episode_ends() -> None:
    made = data(learning_starts=300)
    next(iter(made.train_dataloader()))
    rows = made.buffer.state_dict()["rows"]
    seen, after, ended = rows[0], rows[3], rows[4].bool()
    goes_on = (seen[1:] == after[:-1]).all(1)
    assert torch.equal(goes_on, ~ended[:-1])
    assert ended.sum() == made.environments.finished > 5
    assert (after[ended][:, 2].abs() > 0.2).all()  # the pole of the last observation has fallen, it is no first one


def test_a_cut_off_episode_is_not_a_terminated_one() -> None:
    made = data(env_id="Pendulum-v1", learning_starts=450)
    made._batches = 1  # nothing but the random steps
    made.gradient_steps = 2
    made.next_batch()
    rows = made.buffer.state_dict()["rows"]
    assert made.environments.finished == 2
    assert not rows[4].any()
    assert torch.equal((rows[0][1:] == rows[3][:-1]).all(1).logical_not().nonzero().flatten(), torch.tensor([199, 399]))


@pytest.mark.parametrize(("env_id", "low", "high"), [("CartPole-v1", 0, 1), ("Pendulum-v1", -2, 2)])
def test_first_actions_fill_the_action_space(env_id: str, low: float, high: float) -> None:
    made = data(env_id=env_id, learning_starts=2000)
    made.collect(2000, made._act_randomly)
    actions = made.buffer.state_dict()["rows"][1].double()
    assert actions.min() == pytest.approx(low, abs=0.01)
    assert actions.max() == pytest.approx(high, abs=0.01)
    assert actions.mean() == pytest.approx((low + high) / 2, abs=0.1)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("done", [3, 4, 60])
def test_it_goes_on_from_its_state_exactly(env_id: str, done: int) -> None:
    options = {"env_id": env_id, "num_envs": 2, "train_frequency": 4, "gradient_steps": 2, "buffer_size": 100}
    made = data(**options)
    made.trainer.lightning_module.explore = made._act_randomly  # type: ignore[union-attr]
    for _ in range(done):
        made.next_batch()
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    resumed = data(**options)
    resumed.trainer.lightning_module.explore = resumed._act_randomly  # type: ignore[union-attr]
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(100):
        for ours, theirs in zip(made.next_batch(), resumed.next_batch(), strict=True):
            assert torch.equal(ours, theirs)
    assert made.environments.returns == resumed.environments.returns
    assert made.steps == resumed.steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0, "batch_size": 1.5}, r"data\.num_envs = 0(.|\n)*data\.batch_size = 1\.5"),
        ({"train_frequency": 5}, r"data\.epoch_steps = 12: expected a multiple of data\.train_frequency, 5"),
        ({"num_envs": 2, "train_frequency": 3}, r"data\.train_frequency = 3: expected a multiple of data\.num_envs, 2"),
        ({"env_id": "CartPol-v1"}, r"data\.env_id = 'CartPol-v1'"),
        ({"num_envs": 3, "buffer_size": 2, "train_frequency": 3}, r"data\.buffer_size = 2"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data(**options)


def test_several_devices_are_refused() -> None:
    made = OffPolicyData("CartPole-v1")
    made.trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"trainer\.devices = 2"):
        made.setup("fit")

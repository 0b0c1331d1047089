"""DQN: its loss against torchrl's, its exploration, its target, and what a run's clock counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.errors import ConfigError

pytest.importorskip("gymnasium", reason="the extra rl is not installed")
from lrflow.recipes.rl.replay import Transitions
from lrflow.recipes.rl_dqn.model import DQN, q_loss


def batch(size: int = 32) -> Transitions:
    torch.manual_seed(0)
    return Transitions(
        observations=torch.randn(size, 4),
        actions=torch.randint(2, (size,)),
        rewards=torch.randn(size),
        next_observations=torch.randn(size, 4),
        terminated=(torch.rand(size) < 0.3).float(),
    )


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return nn.Linear(4, 2), nn.Linear(4, 2).requires_grad_(False)


def table(values: list[list[float]]) -> nn.Module:
    """A network that says these values of observation 0, 1, ... (one-hot)."""
    layer = nn.Linear(len(values), len(values[0]), bias=False)
    layer.weight.data = torch.tensor(values).T
    return layer


@pytest.mark.parametrize(("double", "goal"), [(False, 1 + 0.5 * 8.0), (True, 1 + 0.5 * 3.0)])
@pytest.mark.parametrize("terminated", [0.0, 1.0])
def test_loss_by_hand(double: bool, goal: float, terminated: float) -> None:
    q, target = table([[2.0, 0.0], [1.0, 5.0]]), table([[0.0, 0.0], [8.0, 3.0]])
    seen, after = torch.eye(2)[[0]], torch.eye(2)[[1]]
    one = Transitions(seen, torch.tensor([0]), torch.tensor([1.0]), after, torch.tensor([terminated]))
    expected = (2.0 - (1.0 if terminated else goal)) ** 2
    assert q_loss(q, target, one, gamma=0.5, double=double, error="mse").item() == pytest.approx(expected)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("error", "theirs"), [("huber", "smooth_l1"), ("mse", "l2")])
def test_loss_and_gradient_are_those_of_torchrl(double: bool, error: str, theirs: str) -> None:
    torchrl = pytest.importorskip("torchrl.objectives", reason="the independent reference is not installed")
    actors = pytest.importorskip("torchrl.modules")
    tensordict = pytest.importorskip("tensordict")
    q, target = networks()
    actor = actors.QValueActor(nn.Linear(4, 2), spec=None, action_space="categorical", in_keys=["observation"])
    reference = torchrl.DQNLoss(
        actor, loss_function=theirs, delay_value=True, double_dqn=double, action_space="categorical"
    )
    reference.make_value_estimator(gamma=0.9)
    for params, network in (
        (reference.value_network_params, q),
        (reference.target_value_network_params, target),
    ):
        for name, value in params.flatten_keys(".").items():
            value.data.copy_(network.state_dict()[name.rpartition(".")[2]])
    b = batch()
    done = b.terminated.bool()[:, None]
    data = tensordict.TensorDict(
        {
            "observation": b.observations,
            "action": b.actions,
            "next": {
                "observation": b.next_observations,
                "reward": b.rewards[:, None],
                "terminated": done,
                "done": done,
            },
        },
        batch_size=[len(b.actions)],
    )
    expected = reference(data)["loss"]
    loss = q_loss(q, target, b, gamma=0.9, double=double, error=error)
    torch.testing.assert_close(loss, expected)
    expected.backward()
    loss.backward()
    found = {
        name.rpartition(".")[2]: value.grad for name, value in reference.value_network_params.flatten_keys(".").items()
    }
    for name, parameter in q.named_parameters():
        torch.testing.assert_close(parameter.grad, found[name])
    assert all(parameter.grad is None for parameter in target.parameters())


def test_fewer_actions_are_random_as_steps_pass() -> None:
    agent = DQN("CartPole-v1", hidden=[8])
    observations = torch.zeros(20_000, 4)
    best = int(agent.q(observations[:1]).argmax())
    for steps, share in ((0, 0.8), (50, 0.5), (1000, 0.2)):
        planned = {"epsilon": share}
        agent.planned = planned.__getitem__  # type: ignore[method-assign, assignment]
        drawn = agent.explore(observations, steps, torch.Generator().manual_seed(steps))
        assert (drawn != best).double().mean().item() == pytest.approx(share / 2, abs=0.015)
    assert agent.policy(observations[:3].numpy()).tolist() == [best] * 3


def test_the_target_is_renewed_every_so_many_steps() -> None:
    agent = DQN("CartPole-v1", target_every=3, hidden=[8])
    seen: list[Tensor] = []
    for step in range(7):
        agent._trainer = SimpleNamespace(global_step=step)  # type: ignore[assignment]
        with torch.no_grad():
            agent.q[0].bias.fill_(float(step + 1))
        agent.training_step(batch(), step)
        seen.append(agent.target[0].bias[0].item())
    assert seen == [1, 1, 1, 4, 4, 4, 7]


def test_the_target_is_a_part_of_the_checkpoint_but_does_not_train() -> None:
    agent = DQN("CartPole-v1", hidden=[8])
    assert {name.partition(".")[0] for name in agent.state_dict()} == {"q", "target"}
    assert {name.partition(".")[0] for name, p in agent.named_parameters() if p.requires_grad} == {"q"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "Pendulum-v1"}, r"data\.env_id = 'Pendulum-v1': expected discrete actions(.|\n)*rl_sac"),
        ({"env_id": "CartPole-v1", "error": "hubr"}, r"model\.error = 'hubr'(.|\n)*huber"),
        ({"env_id": "CartPole-v1", "target_every": 0}, r"model\.target_every = 0"),
        ({"env_id": "CartPole-v1", "target_every": 0, "gamma": -1.0}, r"model\.gamma = -1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DQN(**options)


def test_huber_is_smooth_l1() -> None:
    """Named after what it is in the paper: slope at most 1."""
    q, target = networks()
    b = batch()
    values = q(b.observations).gather(1, b.actions[:, None])[:, 0]
    goal = b.rewards + 0.9 * (1 - b.terminated) * target(b.next_observations).amax(1)
    assert torch.equal(q_loss(q, target, b, 0.9), functional.smooth_l1_loss(values, goal))

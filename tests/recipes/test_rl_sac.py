"""SAC: its three losses against torchrl's, what each of them reaches, and the squashed normal distribution."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from lrflow.errors import ConfigError

pytest.importorskip("gymnasium", reason="the extra rl is not installed")
from lrflow.recipes.rl.replay import Transitions
from lrflow.recipes.rl_sac.model import SAC, Actor, sac_losses

PARTS = {"critic": "critic.", "actor": "actor.", "temperature": "log_temperature"}


def batch(size: int = 32) -> Transitions:
    torch.manual_seed(0)
    return Transitions(
        observations=torch.randn(size, 3),
        actions=torch.rand(size, 1) * 2 - 1,
        rewards=torch.randn(size),
        next_observations=torch.randn(size, 3),
        terminated=(torch.rand(size) < 0.3).float(),
    )


@pytest.fixture
def agent() -> SAC:
    torch.manual_seed(1)
    made = SAC("Pendulum-v1", hidden=[16, 16], temperature=0.3)
    for parameter in made.target.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def losses(agent: SAC, seed: int = 2) -> Any:
    torch.manual_seed(seed)
    return sac_losses(
        agent.actor, agent.critic, agent.target, agent.log_temperature, batch(), agent.gamma, agent.target_entropy
    )


def gradients(agent: SAC) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in agent.named_parameters() if p.grad is not None}
    agent.zero_grad(set_to_none=True)
    return found


def test_each_loss_reaches_its_own_parameters_alone(agent: SAC) -> None:
    for part, prefix in PARTS.items():
        getattr(losses(agent), part).backward()
        own = {name for name, p in agent.named_parameters() if name.startswith(prefix) and p.requires_grad}
        assert set(gradients(agent)) == own, part


def test_the_gradient_of_the_sum_is_that_of_each_loss(agent: SAC) -> None:
    alone: dict[str, Tensor] = {}
    for part in PARTS:
        getattr(losses(agent), part).backward()
        alone |= gradients(agent)
    sum(losses(agent)).backward()
    together = gradients(agent)
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name], alone[name]) for name in alone)


def test_losses_and_gradients_are_those_of_torchrl(agent: SAC) -> None:
    objectives = pytest.importorskip("torchrl.objectives", reason="the independent reference is not installed")
    modules = pytest.importorskip("torchrl.modules")
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import Bounded

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = copy.deepcopy(agent.actor)

        def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_std = self.actor(observations)
            return mean, log_std.exp()

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(agent.critic.first)

        def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
            return self.net(torch.cat([observations, actions], -1))

    actor = modules.ProbabilisticActor(
        TensorDictModule(Body(), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=modules.TanhNormal,
        distribution_kwargs={"tanh_loc": False, "upscale": 1.0, "safe_tanh": False},
        return_log_prob=True,
    )
    reference = objectives.SACLoss(
        actor,
        modules.ValueOperator(Critic(), in_keys=["observation", "action"]),
        loss_function="l2",
        alpha_init=0.3,
        target_entropy=-1.0,
        action_spec=Bounded(-1, 1, (1,)),
    )
    reference.make_value_estimator(gamma=agent.gamma)
    for params, critics in (
        (reference.qvalue_network_params, agent.critic),
        (reference.target_qvalue_network_params, agent.target),
    ):
        for name, value in params.flatten_keys(".").items():
            ours = name.partition("net.")[2]
            value.data.copy_(torch.stack([critics.first.state_dict()[ours], critics.second.state_dict()[ours]]))
    b = batch()
    done = b.terminated.bool()[:, None]
    after = {"observation": b.next_observations, "reward": b.rewards[:, None], "terminated": done, "done": done}
    data = TensorDict({"observation": b.observations, "action": b.actions, "next": after}, batch_size=[32])
    ours = losses(agent)
    torch.manual_seed(0)
    batch()  # the generator stands where it stood for ours
    expected = reference(data)
    torch.testing.assert_close(2 * ours.critic, expected["loss_qvalue"])  # ours has the half of the paper
    torch.testing.assert_close(ours.actor, expected["loss_actor"])
    torch.testing.assert_close(ours.temperature, expected["loss_alpha"].squeeze())
    (ours.critic * 2 + ours.actor + ours.temperature).backward()
    (expected["loss_qvalue"] + expected["loss_actor"] + expected["loss_alpha"]).sum().backward()
    torch.testing.assert_close(agent.log_temperature.grad, reference.log_alpha.grad.sum())
    theirs = dict(reference.actor_network_params.flatten_keys(".").items())
    for name, parameter in agent.actor.named_parameters():
        (same,) = (value for key, value in theirs.items() if key.endswith(name))
        torch.testing.assert_close(parameter.grad, same.grad)
    for name, value in reference.qvalue_network_params.flatten_keys(".").items():
        pair = [dict(one.named_parameters())[name.partition("net.")[2]].grad for one in agent.critic.children()]
        torch.testing.assert_close(torch.stack(pair), value.grad)


def test_the_target_follows_the_critics_after_each_step(agent: SAC, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: SAC) -> None:
        with torch.no_grad():
            for parameter in self.critic.parameters():
                parameter.fill_(1.0)

    monkeypatch.setattr(pl.LightningModule, "optimizer_step", step)
    before = [parameter.clone() for parameter in agent.target.parameters()]
    agent.optimizer_step()
    for old, new in zip(before, agent.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + agent.tau * (1.0 - old))
    assert not any(parameter.requires_grad for parameter in agent.target.parameters())


def test_the_density_is_that_of_a_squashed_normal() -> None:
    torch.manual_seed(0)
    actor = Actor(3, [16], 2).double()
    observations, noise = torch.randn(64, 3).double(), torch.randn(64, 2).double()
    actions, log_density = actor.sample(observations, noise)
    mean, log_std = actor(observations)
    reference = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    torch.testing.assert_close(log_density, reference.log_prob(actions).sum(-1))


def test_the_density_is_finite_where_tanh_rounds_to_one() -> None:
    actor = Actor(1, [], 1)
    actor.body[0].weight.data.zero_()
    actor.body[0].bias.data = torch.tensor([50.0, 0.0])
    actions, log_density = actor.sample(torch.zeros(1, 1), torch.zeros(1, 1))
    assert actions.item() == 1.0
    # The slope of tanh at 50 is 4 exp(-100).
    assert log_density.item() == pytest.approx(-0.5 * np.log(2 * np.pi) - np.log(4) + 100, rel=1e-6)


def test_actions_reach_the_bounds_of_the_environment_and_no_further(agent: SAC) -> None:
    agent.actor.body[-1].bias.data[0] = 50.0
    seen = torch.zeros(5, 3)
    assert agent.policy(seen.numpy()) == pytest.approx(np.full((5, 1), 2.0))
    drawn = agent.explore(seen, 0, torch.Generator().manual_seed(0))
    assert drawn.shape == (5, 1)
    assert drawn.abs().max() <= 2.0


def test_the_critics_see_actions_between_minus_one_and_one(agent: SAC, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(
        "lrflow.recipes.rl_sac.model.sac_losses",
        lambda *arguments: seen.append(arguments[4].actions) or losses(agent),  # type: ignore[func-returns-value]
    )
    agent.training_step(batch()._replace(actions=torch.tensor([[-2.0], [0.0], [2.0]])), 0)
    assert seen[0].tolist() == [[-1.0], [0.0], [1.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "CartPole-v1"}, r"data\.env_id = 'CartPole-v1': expected actions that are vectors(.|\n)*rl_dqn"),
        ({"env_id": "Pendulum-v1", "temperature": 0.0, "tau": 2.0}, r"model\.temperature = 0(.|\n)*model\.tau = 2"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SAC(**options)

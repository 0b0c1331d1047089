"""Members of a population do what each would do alone: against plain torch, step by step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

from lrflow.layers import Rule, resolve
from lrflow.optimizers import build_optimizer, traits_of
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Constant, Cosine, Cyclical, Horizon, Schedule
from lrflow.vectorized.population import Population
from lrflow.vectorized.updates import UPDATES, StepCoefficients

STEPS = 200
RUN = Horizon(STEPS, 20)
RULES = [
    Rule("no_decay", select=["bias", "norm"], weight_decay=0.0),
    Rule("head", match="head.*", lr="3x"),
    Rule("rest", match="*"),
]
CYCLE = {"low": 0.85, "high": 0.95, "inverse": True}


def network(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers: dict[str, nn.Module] = {"flat": nn.Flatten(), "hidden": nn.Linear(64, 12), "relu": nn.ReLU()}
    if kind != "mlp":
        norm = nn.GroupNorm(2, 4) if kind == "group_norm" else nn.BatchNorm2d(4)
        layers = {"conv": nn.Conv2d(1, 4, 3), "norm": norm, "relu": nn.ReLU(), "pool": nn.MaxPool2d(2)}
        layers["flat"] = nn.Flatten()
    return nn.Sequential(OrderedDict(**layers, head=nn.Linear(12 if kind == "mlp" else 36, 3)))


class Alone:
    """One run of plain torch: the optimizer that lrflow builds, under the scheduler that executes the plan."""

    def __init__(self, kind: str, seed: int, make: Any, settings: Mapping[str, Any], schedule: Schedule) -> None:
        self.network = network(kind, seed)
        groups = resolve(self.network, RULES, settings["lr"], settings["weight_decay"])
        self.plan = Plan.compile(groups, schedule, RUN, settings)
        self.optimizer = build_optimizer(groups, {**settings, "fused": False, "foreach": False}, make)
        self.names = [[name for name, _ in group.parameters] for group in groups]

    def train(self, batches: Sequence[tuple[Tensor, Tensor]], clip: float | None = None) -> list[float]:
        scheduler, losses = PlanScheduler(self.optimizer, self.plan), []
        self.network.train()
        for inputs, targets in batches:
            loss = cross_entropy(self.network(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), clip)
            self.optimizer.step()
            scheduler.step()
            losses.append(float(loss.detach()))
        return losses


def batches(seed: int, steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(steps, 8, 1, 8, 8, generator=generator)
    targets = (inputs.mean(dim=(2, 3, 4)) * 30).round().clamp(-1, 1).long() + 1
    return list(zip(inputs, targets, strict=True))


def stacked(members: Sequence[Alone], compiled: bool = False) -> tuple[Population, StepCoefficients]:
    cpu = torch.device("cpu")
    first = members[0].optimizer
    update = UPDATES[traits_of(type(first)).update](first.param_groups[0])
    numbers = StepCoefficients([one.plan for one in members], [one.optimizer for one in members], update, cpu)
    networks = [one.network for one in members]
    return Population(networks, members[0].names, cross_entropy, update, numbers.start, cpu, compiled), numbers


def train(
    population: Population, numbers: StepCoefficients, data: Sequence[Sequence[tuple[Tensor, Tensor]]], clip: Any = None
) -> Tensor:
    losses = []
    for step, each in enumerate(zip(*data, strict=True)):
        inputs, targets = (torch.stack(parts) for parts in zip(*each, strict=True))
        losses.append(population.step(inputs, targets, numbers.at(step), clip)[0])
    return torch.stack(losses, dim=1)


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
PLAIN = [{"lr": lr, "weight_decay": decay} for lr, decay in ((0.01, 0.0), (0.1, 1e-2), (0.2, 1e-3))]
LOW = [{**one, "lr": one["lr"] / 20} for one in PLAIN]


def each(settings: list[dict[str, Any]], name: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    return [{**one, name: value} for one, value in zip(settings, values, strict=True)]


FAMILIES: dict[str, tuple[str, Any, list[dict[str, Any]]]] = {
    "sgd": ("mlp", SGD, PLAIN),
    "momentum": ("mlp", SGD, each(LOW, "momentum", (0.9, 0.0, 0.5))),
    "dampened": ("mlp", SGD, each(each(LOW, "momentum", (0.8, 0.8, 0.0)), "dampening", (0, 0.5, 0.5))),
    "rising": ("mlp", SGD, [{**one, "momentum": 0.9, "dampening": 0.3} for one in LOW]),
    "nesterov": ("group_norm", SGD, [{**one, "momentum": 0.9, "nesterov": True} for one in LOW]),
    "adam": ("mlp", ADAM, each(LOW, "eps", (1e-8, 1e-6, 1e-4))),
    "amsgrad": ("mlp", ADAM, [{**one, "amsgrad": True} for one in LOW]),
    "adamw": ("mlp", ADAMW, each(LOW, "betas", ((0.9, 0.99), (0.8, 0.999), (0.9, 0.95)))),
    "adamw_cnn": ("group_norm", ADAMW, LOW),
    "batch_norm": ("batch_norm", SGD, [{**one, "momentum": 0.9} for one in LOW]),
}
SCHEDULES = [
    Schedule(Cosine(), warmup="5%"),
    Schedule(Constant(), cooldown="20%"),
    Schedule(Cosine(), also={"momentum": {**CYCLE, "optional": True}}),
]
# Momentum that comes in later, at another step in each member; in the last it goes and comes back.
RISING = [
    Schedule(Constant(), also={"momentum": {"low": 0.0, "high": 0.9, "warmup": 20}}),
    Schedule(Cosine(), also={"momentum": {"low": 0.0, "high": 0.8, "shape": Cosine(), "inverse": True}}),
    Schedule(Cosine(), also={"momentum": {"low": 0.0, "high": 0.9, "shape": Cyclical(cycle=40, low=0)}}),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_member_is_its_own_run(family: str) -> None:
    kind, make, settings = FAMILIES[family]
    schedules = RISING if family == "rising" else SCHEDULES
    members = [
        Alone(kind, seed, make, own, schedule)
        for seed, (own, schedule) in enumerate(zip(settings, schedules, strict=True))
    ]
    population, numbers = stacked(members)
    data = [batches(seed) for seed in range(len(members))]
    losses = train(population, numbers, data)
    for row, (member, own, state) in enumerate(zip(members, data, population.member_states(range(3)), strict=True)):
        copy = Alone(kind, 99, make, settings[row], schedules[row])
        alone = torch.tensor(member.train(own))
        assert alone[-50:].mean() < alone[:20].mean()  # it learns, so that equality says something
        torch.testing.assert_close(losses[row], alone, rtol=1e-4, atol=1e-5)
        state.write(copy.network, copy.optimizer, STEPS)
        for name, value in member.network.state_dict().items():
            torch.testing.assert_close(copy.network.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)
        ours, theirs = copy.optimizer.state_dict()["state"], member.optimizer.state_dict()["state"]
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """With smaller last batches, and a row that is no number from a point on.

    torch traces the step and its gradients as it always does, but leaves out the C++ compiler, which takes a minute.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings = [*each(PLAIN, "momentum", (0.9, 0.0, 0.5)), {"lr": 1e30, "weight_decay": 0.0, "momentum": 0.0}]

    def clip(grad: Tensor, norms: Tensor) -> None:
        grad.mul_((2.0 / (norms + 1e-6)).clamp(max=1.0)[:, None])

    data = [batches(seed, 30) for seed in range(4)]
    shorter = [[(x[:5], y[:5]) if step % 10 == 9 else (x, y) for step, (x, y) in enumerate(own)] for own in data]
    found = []
    counters.clear()
    for compiled in (False, True):
        members = [Alone("mlp", seed, SGD, own, SCHEDULES[seed % 2]) for seed, own in enumerate(settings)]
        population, numbers = stacked(members, compiled)
        losses = train(population, numbers, shorter, clip)
        assert losses[3, -1].isnan()
        found.append((losses[:3], population.weights[:3], population.state["momentum_buffer"][:3]))
        assert (population.compiling > 0) == compiled
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert found[0][0].isfinite().all()
    assert counters["stats"]["unique_graphs"] == 1

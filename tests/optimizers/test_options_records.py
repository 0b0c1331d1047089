"""`optimizer=airbench` and `optimizer=nanogpt` have the LR and weight decay of the records, at every step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from lrflow.config import Config, compose, instantiate
from lrflow.layers import Group, resolve
from lrflow.plan import Plan
from lrflow.schedules import Horizon


class ConvGroup(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, bias=False), nn.BatchNorm2d(width)


class CifarNet(nn.Module):
    """The names of airbench94's network."""

    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.layers = nn.Sequential(nn.GELU(), ConvGroup(24, 4), ConvGroup(4, 4))
        self.head = nn.Linear(4, 10, bias=False)


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.ones(4))


class GPT(nn.Module):
    """The names of modded-nanogpt's network in track 3."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        block = {"attn": nn.ModuleDict({"q": nn.Linear(4, 4), "proj": nn.Linear(4, 4)}), "norm1": RMSNorm()}
        self.blocks = nn.ModuleList([nn.ModuleDict(block)])
        self.proj, self.norm1 = nn.Linear(4, 7), RMSNorm()


def planned(option: str, model: nn.Module, steps: int) -> tuple[list[Group], Plan]:
    config = compose([f"optimizer={option}"])
    main, route = config.optimizer, config.optimizer.routes["muon"]
    routes = {"muon": {"lr": route.lr, "weight_decay": route.weight_decay}}
    groups = resolve(model, rules(config, model), main.lr, main.weight_decay, routes=routes)
    return groups, Plan.compile(groups, config.schedule.curve(), Horizon(steps))


def rules(config: Config, model: nn.Module) -> list:
    if hasattr(config.layers, "target"):
        return instantiate(config.layers.node(), "layers").rules(model)
    return config.layers.compiled()


def airbench(name: str, parameter: nn.Parameter, step: int, steps: int) -> tuple[float, float]:
    """LR and weight decay in airbench94_muon.py at a step; LR 0: it has no gradient."""
    if "whiten" in name:
        until = math.ceil(steps * 3 / 8)
        return (0.053 * (1 - step / until) if step < until else 0.0), 2e-6 * 2000 / 0.053
    rest = 1 - step / steps
    if parameter.ndim == 4:
        return 0.24 * rest, 0.0
    lr = 0.67 if name == "head.weight" else 0.053
    return lr * rest, 2e-6 * 2000 / lr


def nanogpt(name: str, parameter: nn.Parameter, step: int, steps: int) -> tuple[float, float]:
    """LR and weight decay in train_gpt_simple.py at a step."""
    eta = 1.0 if step / steps < 1 - 0.7 else (1 - step / steps) / 0.7
    if parameter.ndim < 2:
        return 0.015 * eta, 0.001
    if name.startswith("blocks."):
        return 0.025 * eta, 0.05
    return {"embed.weight": 0.7, "proj.weight": 0.004}[name] * eta, 0.001


@pytest.mark.parametrize(
    ("option", "model", "steps", "rule"),
    [("airbench", CifarNet(), 200, airbench), ("nanogpt", GPT(), 3250, nanogpt)],
)
def test_every_step_of_every_parameter(option, model, steps, rule) -> None:  # type: ignore[no-untyped-def]
    groups, plan = planned(option, model, steps)
    rates, trained = plan.lr(np.arange(steps)), 0
    for group in (group for group in groups if not group.frozen):
        for name, parameter in group.parameters:
            expected = [rule(name, parameter, step, steps) for step in range(steps)]
            assert rates[:, plan.names.index(group.name)] == pytest.approx([lr for lr, _ in expected], rel=1e-12)
            assert group.weight_decay == pytest.approx(expected[0][1], rel=1e-15), name
            trained += 1
    frozen = {name for group in groups if group.frozen for name, _ in group.parameters}
    assert frozen == {
        name
        for name, _ in model.named_parameters()
        if name == "whiten.weight" or (".norm" in name and name.endswith("1.weight"))
    }
    assert trained + len(frozen) == len(list(model.parameters()))
    assert plan.frozen_from == ({"whiten": 75} if option == "airbench" else {})


def test_the_optimizers_settings() -> None:
    main = compose(["optimizer=airbench"]).optimizer
    assert (main.target, main.momentum, main.nesterov) == ("torch.optim.SGD", 0.85, True)
    route = main.routes["muon"]
    assert (route.momentum, route.nesterov, route.node()["ns_steps"]) == (0.6, True, 3)
    main = compose(["optimizer=nanogpt"]).optimizer
    assert (main.target, main.betas, main.eps) == ("torch.optim.AdamW", (0.8, 0.95), 1e-10)
    route = main.routes["muon"].node()
    assert (route["momentum"], route["ns_steps"], route["ns_coefficients"]) == (0.95, 12, [2, -1.5, 0.5])

"""Advice is given on plans that do not suit their optimizer, and only on those."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lrflow.health.advice import advise
from lrflow.layers import Rule, resolve
from lrflow.plan import Plan
from lrflow.schedules import Constant, Cosine, Cyclical, Horizon, Linear, Schedule

schedulefree = pytest.importorskip("schedulefree")
prodigyopt = pytest.importorskip("prodigyopt")

FREE = schedulefree.AdamWScheduleFree


def plan(schedule: Any, lr: float = 1.0, *rules: Rule) -> Plan:
    groups = resolve(nn.Linear(2, 2), [*rules, Rule("rest", match="*")], lr, routes={"free": {"lr": 0.5}})
    return Plan.compile(groups, schedule, Horizon(100_000, 1000))


@pytest.mark.parametrize(
    "schedule",
    [Schedule(Cosine()), Schedule(Linear(), warmup=10), Schedule(Constant(), cooldown="1%"), Schedule(Cyclical())],
)
def test_averaging_needs_no_decay(schedule: Schedule) -> None:
    (advice,) = advise(plan(schedule, 0.01), {None: FREE})
    assert advice.startswith("AdamWScheduleFree averages its weights instead of decaying the LR")
    assert "from 0.01 to" in advice
    assert advice.endswith("use schedule=constant_with_warmup")
    assert advise(plan(schedule, 0.01), {None: torch.optim.AdamW}) == []


@pytest.mark.parametrize("warmup", [0, 1000, "10%"])
def test_a_warmup_is_not_a_decay(warmup: Any) -> None:
    assert advise(plan(Schedule(Constant(), warmup=warmup)), {None: FREE}) == []


def test_an_lr_multiplier_other_than_one() -> None:
    (advice,) = advise(plan(Schedule(Cosine()), 0.003), {None: prodigyopt.Prodigy})
    assert advice == (
        "Prodigy estimates the LR itself; optimizer.lr is a multiplier on it and is 1 in its paper, found 0.003"
    )
    assert advise(plan(Schedule(Cosine()), 1.0), {None: prodigyopt.Prodigy}) == []


def test_each_route_has_its_own_advice() -> None:
    routed = plan(Schedule(Cosine()), 1.0, Rule("bias", select="bias", route="free"))
    (advice,) = advise(routed, {None: torch.optim.SGD, "free": FREE})
    assert "from 0.5 to" in advice
    (advice,) = advise(routed, {None: torch.optim.SGD, "free": prodigyopt.Prodigy, "unused": FREE})
    assert "optimizer.routes.free.lr is a multiplier" in advice

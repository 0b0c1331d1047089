"""Fixtures that make plans of every kind of schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lrflow.errors import Problem
from lrflow.plan import Plan, PlanGroup
from lrflow.schedules import (
    Constant,
    Continued,
    Cosine,
    Curve,
    Exponential,
    Horizon,
    Linear,
    MultiStep,
    Phase,
    Polynomial,
    Schedule,
    Step,
)

MakePlan = Callable[..., Plan]
BEFORE = Horizon(150, 30)

SCHEDULES: dict[str, Curve] = {
    "constant": Schedule(Constant()),
    "stable_decay": Schedule(Constant(), warmup="5%", cooldown="20%", floor=0.05),
    "linear": Schedule(Linear(), warmup=7),
    "cosine": Schedule(Cosine(), warmup="5%", warmup_start=0.2, floor=0.1),
    "polynomial": Schedule(Polynomial(power=3.0), warmup=3),
    "exponential": Schedule(Exponential(gamma=0.7, every="1 epoch"), cooldown="10%"),
    "staircase": Schedule(Exponential(gamma=0.5, every=29, staircase=True), warmup=11),
    "step": Schedule(Step(gamma=0.3, every="1 epoch"), floor=0.02),
    "multistep": Schedule(MultiStep(gamma=0.1, milestones=["1 epoch", "50%", 170]), warmup=5),
    "kept": Continued(Schedule(Cosine(), warmup=10, floor=0.2), 60, BEFORE, "keep"),
    "rescaled": Continued(Schedule(Cosine(), warmup=10), 60, BEFORE, "rescale"),
    "extended": Continued(Schedule(Linear(), warmup=10), 60, BEFORE, "extend"),
    "decayed": Continued(Schedule(Constant(), warmup=10), 60, BEFORE, "decay_now"),
    "resumed_twice": Continued(Continued(Schedule(Linear()), 40, Horizon(100, 25), "extend"), 60, BEFORE, "extend"),
}


@dataclass(frozen=True)
class Custom(Curve):
    """A custom curve, given by a function of the steps; it implements only what it must."""

    function: Any
    name: str = "custom"
    floor: float = 0.0
    declared: tuple[int, ...] = ()

    def values(self, steps: Any, horizon: Horizon) -> Any:
        return self.function(steps, horizon)

    def phase(self, horizon: Horizon) -> Phase:
        return Phase(0, horizon.steps, horizon)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        return self.declared

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        return []

    def spec(self) -> dict[str, Any]:
        return {"_target_": "user.curves.Custom", "name": self.name}


@pytest.fixture(scope="session")
def custom() -> Callable[..., Curve]:
    """Makes a curve from a function of (steps, horizon)."""
    return Custom


@pytest.fixture(scope="session", params=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Curve:
    """Every kind of schedule, for a horizon of 200 steps, 50 per epoch."""
    return SCHEDULES[request.param]


@pytest.fixture(scope="session")
def horizon() -> Horizon:
    return Horizon(200, 50)


@pytest.fixture(scope="session")
def group() -> Callable[..., PlanGroup]:
    """Makes a group from its name, peak LR, schedule and other fields."""

    def make(name: str, lr: float, schedule: Curve, **settings: Any) -> PlanGroup:
        defaults = {"scale": 1.0, "weight_decay": None, "tensors": 2, "parameters": 10, "frozen": False}
        return PlanGroup(name=name, lr=lr, schedule=schedule, **{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def plan_of(group: Callable[..., PlanGroup]) -> MakePlan:
    """Makes a plan of groups with these peaks, `a`, `b`, ..., that all follow one schedule."""

    def make(schedule: Curve, horizon: Horizon, *peaks: float) -> Plan:
        return Plan(tuple(group(chr(97 + i), lr, schedule) for i, lr in enumerate(peaks or (0.1,))), horizon)

    return make


@pytest.fixture(scope="session")
def optimizer_of() -> Callable[..., torch.optim.Optimizer]:
    """Makes an optimizer with one parameter group of one weight per trainable group of a plan."""

    def make(plan: Plan, kind: type[torch.optim.Optimizer] = torch.optim.SGD, **settings: Any) -> torch.optim.Optimizer:
        groups = [
            {"params": [torch.nn.Parameter(torch.ones(1, dtype=torch.float64))], "members": [name]}
            for name in plan.names
        ]
        return kind(groups, **{"lr": 123.0, **settings})  # type: ignore[call-arg]

    return make

"""Runs that schedule other settings too: they are logged, resume bit for bit, and are right when compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.layers import Rule, resolve
from lrflow.optimizers import build_optimizer
from lrflow.plan import Plan
from lrflow.schedules import Cosine, Horizon, Linear, Schedule
from lrflow.training.configure_optimizers import supply_optimizer

SETTINGS = {"betas": [0.9, 0.999], "weight_decay": 0.1}
ALSO = {
    "momentum": {"low": 0.85, "high": 0.95, "inverse": True},
    "weight_decay": {"shape": Linear(), "low": 0.01, "high": 0.4, "inverse": True},
}
MOVING = Schedule(Cosine(), warmup="10%", also=ALSO)


def go(train: Any, folder: Path, **options: Any) -> Any:
    torch.manual_seed(5)
    return train(folder, **{"schedule": MOVING, "settings": SETTINGS, "save_every": "5 steps", **options})


def test_they_are_logged_as_the_optimizer_used_them(train: Any, tmp_path: Path) -> None:
    run = go(train, tmp_path, log_every=4)
    steps = np.arange(run.plan.horizon.steps)
    for index, name in enumerate(run.plan.names):
        assert run.column(f"momentum/{name}") == run.plan.setting("momentum", steps)[:, index].tolist()
    assert run.plan.names == ("no_decay", "body", "head")
    assert run.column("weight_decay/head") == run.plan.setting("weight_decay", steps)[:, 2].tolist()
    assert "weight_decay/no_decay" not in run.rows()[0]
    assert run.blocks[0].settings["momentum/head"].tolist() == run.column("momentum/head")[: len(run.blocks[0])]


def test_without_scheduled_settings_there_is_no_column(train: Any, tmp_path: Path) -> None:
    run = go(train, tmp_path, schedule=Schedule(Cosine()), max_epochs=1)
    assert not [name for name in run.rows()[0] if "momentum" in name or "decay/" in name.removeprefix("lr/")]


@pytest.mark.parametrize("interrupt", [6, 12])
def test_an_interrupted_run_resumes_exactly(train: Any, tmp_path: Path, interrupt: int) -> None:
    whole = go(train, tmp_path / "whole")
    broken = go(train, tmp_path / "run", interrupt=interrupt)
    resumed = go(train, tmp_path / "run", resume=broken.newest)
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())
    for name in ("momentum/head", "weight_decay/body"):
        assert resumed.column(name) == whole.column(name)


def test_a_setting_that_is_no_longer_scheduled_is_as_configured(train: Any, tmp_path: Path) -> None:
    """This holds for the optimizer's default, too."""
    broken = go(train, tmp_path, interrupt=12)
    plain = Schedule(Cosine(), warmup="10%")
    resumed = go(train, tmp_path, resume=broken.newest, schedule=plain, settings={"weight_decay": 0.1})
    groups = resumed.trainer.optimizers[0].param_groups
    assert [group["betas"] for group in groups] == [(0.9, 0.999)] * 3
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.1, 0.1]


def test_with_another_length_they_continue_with_the_lr(train: Any, tmp_path: Path) -> None:
    broken = go(train, tmp_path, interrupt=12)
    resumed = go(train, tmp_path, resume=broken.newest, max_epochs=5, how="rescale")
    whole = go(train, tmp_path / "whole", max_epochs=5)
    at = resumed.resumed.step
    assert resumed.column("momentum/head")[at:] == whole.column("momentum/head")[at:]
    assert resumed.column("momentum/head")[:at] != whole.column("momentum/head")[:at]


def updates(compiled: bool, steps: int = 12) -> tuple[bool, list[torch.Tensor]]:
    """Return whether the update was compiled, and the weights after some steps with a rising beta2."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model: Any = torch.nn.Linear(4, 4)
    groups = resolve(model, [Rule("all", match="*")], 0.01)
    settings = {"lr": 0.01, "betas": [0.9, 0.999], "fused": False}
    schedule = Schedule(Cosine(), also={"beta2": {"warmup": 10, "low": 0.9}})
    plan = Plan.compile(groups, schedule, Horizon(steps, steps), settings)
    model.device, model.automatic_optimization = torch.device("cpu"), True
    supply_optimizer(
        model,
        plan,
        lambda device: build_optimizer(groups, settings, torch.optim.Adam, device, compiled),
        settings,
        compiled,
    )
    configured = model.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    inputs = torch.randn(8, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return "step" in vars(optimizer), [parameter.detach().clone() for parameter in model.parameters()]


def test_with_scheduled_settings_the_update_is_not_compiled() -> None:
    compiled, weights = updates(compiled=True)
    assert not compiled
    _, expected = updates(compiled=False)
    for ours, theirs in zip(weights, expected, strict=True):
        torch.testing.assert_close(ours, theirs)

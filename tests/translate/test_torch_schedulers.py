"""Configs of Lightning's CLI and of torchvision's reference, beside torch's own schedulers stepped once per epoch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as theirs

from lrflow.plan import Plan
from lrflow.translate import Facts, translate
from tests.translate.conftest import of_plan

EPOCH, EPOCHS, PEAK = 5, 30, 0.03


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": arguments}


def built(given: dict[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    """Torch's scheduler of a node."""
    name, arguments = given["class_path"].rpartition(".")[2], dict(given["init_args"])
    if "schedulers" in arguments:
        arguments["schedulers"] = [built(inner, optimizer) for inner in arguments["schedulers"]]
    if name == "ChainedScheduler":
        return theirs.ChainedScheduler(arguments["schedulers"], optimizer)
    return getattr(theirs, name)(optimizer, **arguments)


def per_epoch(given: dict[str, Any], count: int = EPOCHS, peak: float = PEAK) -> Any:
    """The LR of each step under torch's scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], peak)
    scheduler, found = built(given, optimizer), []
    for _ in range(count):
        found += [optimizer.param_groups[0]["lr"]] * EPOCH
        optimizer.step()
        scheduler.step()
    return np.array(found)


RISE = node("LinearLR", start_factor=0.1, total_iters=4)
CASES = {
    "step": node("StepLR", step_size=7, gamma=0.3),
    "milestones": node("MultiStepLR", milestones=[10, 20, 40], gamma=0.3),
    "a milestone twice": node("MultiStepLR", milestones=[10, 10, 20], gamma=0.3),
    "exponential": node("ExponentialLR", gamma=0.9),
    "cosine": node("CosineAnnealingLR", T_max=30, eta_min=1e-4),
    "a longer cosine": node("CosineAnnealingLR", T_max=50),
    "a cosine that rises again": node("CosineAnnealingLR", T_max=10, eta_min=1e-3),
    "linear": node("LinearLR", start_factor=0.2, total_iters=6),
    "linear, down": node("LinearLR", start_factor=1.0, end_factor=0.1, total_iters=20),
    "constant": node("ConstantLR", factor=0.25, total_iters=6),
    "polynomial": node("PolynomialLR", total_iters=30, power=2.0),
    "a shorter polynomial": node("PolynomialLR", total_iters=25, power=2.0),
    "restarts": node("CosineAnnealingWarmRestarts", T_0=4, T_mult=2, eta_min=1e-3),
    "one cycle": node("OneCycleLR", max_lr=PEAK, total_steps=30),
    "one cycle of three phases": node("OneCycleLR", max_lr=PEAK, total_steps=31, three_phase=True, pct_start=0.4),
    "cycles": node("CyclicLR", base_lr=0.001, max_lr=PEAK, step_size_up=5, mode="triangular2", cycle_momentum=False),
    "warmup, cosine": node(
        "SequentialLR", schedulers=[RISE, node("CosineAnnealingLR", T_max=26, eta_min=1e-4)], milestones=[4]
    ),
    "warmup, steps": node("SequentialLR", schedulers=[RISE, node("StepLR", step_size=9)], milestones=[4]),
    "a warmup that is cut off": node("SequentialLR", schedulers=[RISE, node("StepLR", step_size=9)], milestones=[3]),
    "three parts": node(
        "SequentialLR",
        schedulers=[RISE, node("ConstantLR", factor=1.0), node("ExponentialLR", gamma=0.7)],
        milestones=[4, 15],
    ),
    "chained": node("ChainedScheduler", schedulers=[RISE, node("StepLR", step_size=9)]),
}


def test_every_scheduler_of_lightnings_cli_is_torchs_own(lrs: Callable[..., Any]) -> None:
    wrong = []
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": PEAK, "momentum": 0.9}}
    for name, given in CASES.items():
        config = {"trainer": {"max_epochs": EPOCHS}, "optimizer": optimizer, "lr_scheduler": given}
        found = lrs(config, EPOCHS * EPOCH, EPOCH)
        error = np.max(np.abs(found - per_epoch(given))) / PEAK
        if error > 1e-12:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_momentum_that_torch_moves_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for more, named in (({}, True), ({"cycle_momentum": False}, False)):
        scheduler = node("OneCycleLR", max_lr=PEAK, total_steps=30, **more)
        path.write_text(json.dumps({"trainer": {"max_epochs": 30}, "optimizer": "Adam", "lr_scheduler": scheduler}))
        found = translate(path, Facts())
        assert ("lr_scheduler.cycle_momentum" in found.left) is named
        assert found.values["optimizer"]["lr"] == PEAK


@pytest.mark.parametrize(
    "flags",
    [
        "--lr 0.5 --epochs 12 --lr-scheduler cosineannealinglr --lr-warmup-epochs 3 --lr-warmup-method linear",
        "--lr 0.5 --epochs 12 --lr-scheduler=cosineannealinglr --lr-warmup-epochs 2 --lr-min 1e-3",
        "--lr 0.1 --epochs 12 --lr-step-size 4",
        "--lr 0.1 --epochs 12 --lr-step-size 3 --lr-warmup-epochs 2 --lr-warmup-decay 0.1 --lr-gamma 0.5",
        "--lr 0.1 --epochs 12 --lr-scheduler exponentiallr --lr-gamma 0.8 --lr-warmup-epochs 2",
    ],
)
def test_torchvisions_flags_are_its_schedulers(planned: Callable[..., Plan], flags: str) -> None:
    words = shlex.split(flags.replace("=", " "))
    a = dict(zip((word.strip("-") for word in words[::2]), words[1::2], strict=True))
    count, warmup, peak = int(a["epochs"]), int(a.get("lr-warmup-epochs", 0)), float(a["lr"])
    gamma = float(a.get("lr-gamma", 0.1))
    main = {
        "steplr": node("StepLR", step_size=int(a.get("lr-step-size", 30)), gamma=gamma),
        "cosineannealinglr": node("CosineAnnealingLR", T_max=count - warmup, eta_min=float(a.get("lr-min", 0))),
        "exponentiallr": node("ExponentialLR", gamma=gamma),
    }[a.get("lr-scheduler", "steplr")]
    low = float(a.get("lr-warmup-decay", 0.01))
    linear = a.get("lr-warmup-method") == "linear"
    rise = (
        node("LinearLR", start_factor=low, total_iters=warmup)
        if linear
        else node("ConstantLR", factor=low, total_iters=warmup)
    )
    whole = node("SequentialLR", schedulers=[rise, main], milestones=[warmup]) if warmup else main
    command = f"torchrun --nproc_per_node=8 train.py --model resnet50 --batch-size 16 {flags} --norm-weight-decay 0\n"
    plan = planned(command, count * EPOCH, EPOCH, name="flags.txt")
    assert np.max(np.abs(of_plan(plan) - per_epoch(whole, count, peak))) / peak < 1e-12
    assert {group.name: group.weight_decay for group in plan.groups if "norm" in group.name or "bias" in group.name}

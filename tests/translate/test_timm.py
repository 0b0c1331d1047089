"""timm's arguments against the rules of timm's schedulers, written out from timm/scheduler (1.0) in its own terms."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.plan import Plan
from lrflow.translate import Facts, translate

EPOCH = 10  # updates per epoch
BASE = {"lr": 0.02, "opt": "momentum", "batch_size": 8, "epochs": 12, "warmup_lr": 1e-4, "lr_cycle_decay": 0.5}
CASES: list[dict[str, Any]] = [
    {},
    {"warmup_epochs": 0, "min_lr": 1e-4},
    {"warmup_prefix": True, "min_lr": 1e-4, "cooldown_epochs": 3},
    {"min_lr": 1e-4, "cooldown_epochs": 2},
    {"sched_on_updates": True, "min_lr": 1e-5},
    {"sched_on_updates": True, "warmup_prefix": True, "warmup_epochs": 2, "lr_k_decay": 2.0},
    {"lr_cycle_limit": 3, "min_lr": 1e-4, "warmup_epochs": 2, "epochs": 5},
    {"lr_cycle_limit": 3, "lr_cycle_mul": 2.0, "warmup_epochs": 2, "epochs": 3, "sched_on_updates": True},
    {"sched": "poly", "min_lr": 1e-4},
    {"sched": "poly", "decay_rate": 2.0, "lr_k_decay": 1.5, "sched_on_updates": True, "warmup_prefix": True},
    {"sched": "tanh"},
    {"sched": "tanh", "min_lr": 1e-4, "warmup_prefix": True, "cooldown_epochs": 2},
    {"sched": "tanh", "sched_on_updates": True, "warmup_prefix": True},
    {"sched": "step", "decay_epochs": 2.4, "decay_rate": 0.97, "warmup_epochs": 3},
    {"sched": "step", "decay_epochs": 3, "decay_rate": 0.5, "warmup_epochs": 3, "warmup_prefix": True},
    {"sched": "step", "decay_epochs": 3, "decay_rate": 0.5, "sched_on_updates": True},
    {"sched": "step", "decay_epochs": 3, "sched_on_updates": True, "warmup_prefix": True},
    {"sched": "multistep", "decay_milestones": [4, 8, 10], "decay_rate": 0.3, "warmup_epochs": 2},
    {"sched": "multistep", "decay_milestones": [4, 8], "warmup_epochs": 2, "warmup_prefix": True},
]


def rule(a: dict[str, Any]) -> list[float]:
    """The LR of each update of timm's train.py."""
    per_step, sched = a.get("sched_on_updates", False), a.get("sched", "cosine")
    unit = EPOCH if per_step else 1
    length, warmup = a["epochs"] * unit, a.get("warmup_epochs", 5) * unit
    lr, low, start, prefix = a["lr"], a.get("min_lr", 0.0), a["warmup_lr"], a.get("warmup_prefix", False)
    limit, factor, k = a.get("lr_cycle_limit", 1), a.get("lr_cycle_mul", 1.0), a.get("lr_k_decay", 1.0)

    def curve(t: float) -> float:
        if sched == "step":
            return lr * a.get("decay_rate", 0.1) ** (t // (a["decay_epochs"] * unit))
        if sched == "multistep":
            return lr * a.get("decay_rate", 0.1) ** bisect.bisect_right(
                [m * unit for m in a["decay_milestones"]], t + 1
            )
        i, begin, size = 0, 0.0, float(length)
        while t >= begin + size:
            i, begin, size = i + 1, begin + size, size * factor
        if i >= limit:
            return low
        top, at = lr * a["lr_cycle_decay"] ** i, t - begin
        if sched == "cosine":
            return low + 0.5 * (top - low) * (1 + math.cos(math.pi * at**k / size**k))
        if sched == "poly":
            return low + (top - low) * (1 - at**k / size**k) ** a.get("decay_rate", 0.1)
        return low + 0.5 * (top - low) * (1 - math.tanh(-7.0 * (1.0 - at / size) + 3.0 * at / size))

    def at(t: int) -> float:
        if t < warmup:
            reached = curve(warmup) if sched == "tanh" and not prefix else lr
            return start + t * (reached - start) / warmup
        return curve(t - warmup if prefix else t)

    count = a["epochs"]
    if sched in ("cosine", "poly", "tanh"):
        count = sum(int(a["epochs"] * factor**i) for i in range(limit)) + (a.get("cooldown_epochs", 0) if low else 0)
    count += a.get("warmup_epochs", 5) if prefix else 0
    return [at(t if per_step else t // EPOCH) for t in range(count * EPOCH)]


def test_every_schedule_is_timms_at_every_update(lrs: Callable[..., Any]) -> None:
    wrong = []
    for case in CASES:
        arguments = {**BASE, **case}
        expected = rule(arguments)
        found = lrs(arguments, len(expected), EPOCH)
        error = np.max(np.abs(found - expected)) / arguments["lr"]
        if error > 1e-12:
            wrong.append(f"{case}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("opt", "devices", "peak"), [("momentum", 4, 0.1 * 4 * 64 / 256), ("adamw", 16, 0.1 * math.sqrt(16 * 64 / 256))]
)
def test_the_peak_without_an_lr_is_scaled_by_the_batch(tmp_path: Path, opt: str, devices: int, peak: float) -> None:
    path = tmp_path / "args.yaml"
    path.write_text(json.dumps({"opt": opt, "batch_size": 32, "grad_accum_steps": 2, "sched": "cosine"}))
    with pytest.raises(ConfigError, match=r"(?s)lr_base.*--devices N"):
        translate(path, Facts())
    assert translate(path, Facts(devices=devices)).values["optimizer"]["lr"] == pytest.approx(peak, rel=1e-15)


def test_floors_follow_the_layers(planned: Callable[..., Plan]) -> None:
    arguments = {**BASE, "opt": "adamw", "layer_decay": 0.5, "min_lr": 0.002, "warmup_epochs": 2}
    plan = planned(arguments, 120, EPOCH)
    values = plan.lr(np.arange(120))
    peaks = np.array([group.lr for group in plan.groups])
    assert peaks.min() < peaks.max()
    # timm multiplies the LRs of layers after the schedule, so that all groups have one curve
    assert np.ptp(values / peaks, axis=1).max() < 1e-12
    assert values[0].max() == pytest.approx(1e-4)

"""Configs of mmengine against the rules of its schedulers, written out without their recursion."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.plan import Plan
from lrflow.translate import Facts, translate

PEAK, EPOCH = 0.02, 10

Rule = Callable[[int], float]


def config(schedulers: str, loop: str = "max_epochs=12") -> str:
    return (
        f"optim_wrapper = dict(optimizer=dict(type='SGD', lr={PEAK}, momentum=0.9, weight_decay=1e-4))\n"
        f"train_cfg = dict(type='EpochBasedTrainLoop', {loop})\n"
        "train_dataloader = dict(batch_size=2)\n"
        f"param_scheduler = [{schedulers}]\n"
    )


def rise(t: int, length: int, start: float) -> float:
    """LinearLR, which is at its end at its last step."""
    return start + (1 - start) * min(t / (length - 1), 1.0)


def half(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


WARM = "dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=25)"
CASES: dict[str, tuple[str, str, Rule]] = {
    "RetinaNet's 1x": (
        WARM + ", dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)",
        "max_epochs=12",
        lambda t: rise(t, 25, 0.001) * 0.1 ** ((t >= 80) + (t >= 110)),
    ),
    "cosine by iterations after a warmup in epochs": (
        "dict(type='LinearLR', start_factor=0.01, begin=0, end=3, convert_to_iter_based=True),"
        "dict(type='CosineAnnealingLR', begin=3, end=12, T_max=9, eta_min=2e-4, convert_to_iter_based=True)",
        "max_epochs=12",
        lambda t: rise(t, 30, 0.01) if t < 30 else 0.01 + 0.99 * half((t - 30) / 90),
    ),
    "cosine by epochs": (
        "dict(type='CosineAnnealingLR', eta_min_ratio=0.1, T_max=12)",
        "max_epochs=12",
        lambda t: 0.1 + 0.9 * half(t // 10 / 12),
    ),
    "poly": (
        "dict(type='PolyLR', eta_min=1e-3, power=0.9, begin=0, end=100, by_epoch=False)",
        "max_iters=120",
        lambda t: 0.05 + 0.95 * (1 - min(t / 99, 1.0)) ** 0.9,
    ),
    "poly to 0 after a warmup, whose last iteration is left out": (
        WARM + ", dict(type='PolyLR', power=0.9, begin=25, end=101, by_epoch=False)",
        "max_iters=101",
        lambda t: rise(t, 25, 0.001) if t < 25 else (1 - (t - 25) / 75) ** 0.9,
    ),
    "steps": (
        "dict(type='StepLR', step_size=5, gamma=0.5)",
        "max_epochs=12",
        lambda t: 0.5 ** (t // 50),
    ),
    "constant, then exponential, by epochs: a table": (
        "dict(type='ConstantLR', factor=0.1, begin=0, end=4), dict(type='ExponentialLR', gamma=0.9, begin=4, end=9)",
        "max_epochs=12",
        lambda t: 0.1 if t < 30 else 0.9 ** min(max(t // 10 - 4, 0), 4),
    ),
    "a cosine that ends early, as YOLOX has it: a table of steps": (
        "dict(type='LinearLR', start_factor=0.1, begin=0, end=2, convert_to_iter_based=True),"
        "dict(type='CosineAnnealingLR', begin=2, end=9, T_max=9, eta_min=1e-3, convert_to_iter_based=True)",
        "max_epochs=12",
        lambda t: rise(t, 20, 0.1) if t < 20 else 0.05 + 0.95 * half((min(t, 89) - 20) / 90),
    ),
    "a warmup in iterations over a cosine in epochs": (
        WARM + ", dict(type='CosineAnnealingLR', T_max=12)",
        "max_epochs=12",
        lambda t: rise(t, 25, 0.001) * half(t // 10 / 12),
    ),
}


def test_the_lr_is_mmengines_at_every_iteration(lrs: Callable[..., Any]) -> None:
    wrong = []
    for name, (schedulers, loop, rule) in CASES.items():
        steps = {"max_iters=101": 100}.get(loop, 120)
        found = lrs(config(schedulers, loop), steps, EPOCH, name="given.py", devices=1, samples=20)
        error = np.max(np.abs(found / PEAK - [rule(t) for t in range(steps)]))
        if error > 1e-12:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_parameters_follow_paramwise_cfg(planned: Callable[..., Plan]) -> None:
    text = config("dict(type='StepLR', step_size=5)").replace(
        "weight_decay=1e-4)", "weight_decay=1e-4), paramwise_cfg=dict(norm_decay_mult=0., custom_keys="
        "{'layers': dict(lr_mult=0.1), 'layers.0': dict(decay_mult=0.5), 'nowhere': dict(lr_mult=2)})"
    )  # fmt: skip
    plan = planned(text, 120, name="given.py")
    groups = {group.name: (group.lr, group.weight_decay) for group in plan.groups}
    assert all(lr in (PEAK, 0.1 * PEAK) for lr, _ in groups.values())
    assert "nowhere" not in groups


def test_bases_are_read_and_merged(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "schedule.py").write_text(config("dict(type='StepLR', step_size=3)"))
    path = tmp_path / "mine.py"
    path.write_text(
        "_base_ = ['base/schedule.py']\n"
        "optim_wrapper = dict(optimizer=dict(lr=0.1), clip_grad=dict(max_norm=35, norm_type=2))\n"
    )
    found = translate(path, Facts())
    assert (found.values["optimizer"]["lr"], found.values["optimizer"]["momentum"]) == (0.1, 0.9)
    assert found.values["schedule"]["shape"]["milestones"] == ["3 epochs", "6 epochs", "9 epochs"]
    assert found.options["clip"] == "norm"
    path.write_text("_base_ = 'mine.py'\n")
    with pytest.raises(ConfigError, match=r"_base_ = 'mine\.py': cannot be read"):
        translate(path, Facts())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("StepLR", "StpLR"), r"(?s)param_scheduler.0.type = 'StpLR'.*did you mean StepLR\?"),
        (("max_epochs=12", "by_epoch=True"), "expected max_epochs or max_iters"),
        (("step_size=3", "begin=5, end=4"), "expected more than begin"),
        (
            ("'StepLR', step_size=3", "'LinearLR', convert_to_iter_based=True, begin=1, end=4"),
            "--devices N --samples N",
        ),
    ],
)
def test_what_is_wrong_is_one_problem(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path: Any = tmp_path / "given.py"
    path.write_text(config("dict(type='StepLR', step_size=3)").replace(*change))
    with pytest.raises(ConfigError, match=message) as caught:
        translate(path, Facts())
    assert len(caught.value.problems) == 1

"""Each schedule of transformers, with its own scheduler beside the plan of the translated training arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from lrflow.errors import ConfigError
from lrflow.translate import Facts, translate

PEAK = 3e-4
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"warmup_steps": 25}, {}),
    ({"warmup_steps": 0.07, "max_steps": 100}, {}),  # 7.000000000000001 steps, which are 8
    ({"lr_scheduler_type": "cosine", "warmup_steps": 0.033}, {}),
    ({"lr_scheduler_type": "cosine", "warmup_steps": 10}, {"num_cycles": 1.25}),
    ({"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 20}, {"num_cycles": 4}),
    ({"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 10}, {"num_cycles": 3}),
    ({"lr_scheduler_type": "polynomial", "warmup_steps": 10}, {}),
    ({"lr_scheduler_type": "polynomial", "warmup_steps": 10}, {"power": 2.5, "lr_end": 2e-5}),
    ({"lr_scheduler_type": "constant", "warmup_steps": 10}, {}),
    ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10}, {}),
    ({"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 30}, {}),
    ({"lr_scheduler_type": "inverse_sqrt"}, {}),
    ({"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 30}, {"timescale": 77}),
    ({"lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 30}, {"min_lr": 1e-5}),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, {"min_lr_rate": 0.1, "num_cycles": 0.4}),
    ({"lr_scheduler_type": "cosine_warmup_with_min_lr", "warmup_steps": 30}, {"min_lr_rate": 0.1}),
    ({"lr_scheduler_type": "cosine_warmup_with_min_lr", "warmup_steps": 30}, {"min_lr": 1e-5, "warmup_lr_rate": 0.2}),
    ({"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 30}, {"num_decay_steps": 50}),
    (
        {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 30},
        {"num_decay_steps": 50, "min_lr_ratio": 0.1, "warmup_type": "cosine", "decay_type": "1-sqrt"},
    ),
    (
        {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 30},
        {"num_decay_steps": 50, "num_stable_steps": 100, "min_lr_ratio": 0.05, "decay_type": "linear"},
    ),
    ({"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 30}, {"num_decay_steps": 9, "warmup_type": "1-sqrt"}),
]


def theirs(arguments: dict[str, Any], more: dict[str, Any]) -> list[float]:
    """The LRs of transformers' own scheduler."""
    args = TrainingArguments(**arguments, learning_rate=PEAK, lr_scheduler_kwargs=more, use_cpu=True)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], args.learning_rate)
    steps = args.max_steps
    warmup = args.get_warmup_steps(steps)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps, args.lr_scheduler_kwargs)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_every_schedule_is_transformers_own_at_every_step(lrs: Callable[..., Any]) -> None:
    wrong = []
    for arguments, more in CASES:
        given = {"max_steps": 200, **arguments}
        found = lrs({**given, "learning_rate": PEAK, "lr_scheduler_kwargs": more, "optim": "sgd"}, given["max_steps"])
        error = np.max(np.abs(found - theirs(given, more))) / PEAK
        if error > 1e-12:
            wrong.append(f"{arguments} {more}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_steps_of_epochs_need_the_data(tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    given = {"num_train_epochs": 2.5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    path.write_text(json.dumps({**given, "warmup_ratio": 0.1}))
    with pytest.raises(ConfigError, match=r"(?s)--devices --samples.*num_train_epochs=2.5.*--devices N --samples N"):
        translate(path, Facts())
    found = translate(path, Facts(devices=2, samples=1001))
    # 1001 examples are 126 batches of 4 on 2 devices, and those are 42 optimizer steps
    assert found.values["trainer"]["max_steps"] == 105
    assert found.values["schedule"]["warmup"] == 11
    assert found.values["data"] == {"batch_size": 4, "effective_batch_size": 24}


def test_a_share_without_the_steps_is_rounded_up(lrs: Callable[..., Any]) -> None:
    found = lrs({"num_train_epochs": 3, "warmup_ratio": 0.05, "lr_scheduler_type": "constant_with_warmup"}, 31)
    assert list(found[:3] / 5e-5) == [0.0, 0.5, 1.0]  # 1.55 steps are 2


def test_a_schedule_that_is_a_table_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    given = {"max_steps": 10**9, "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}}
    path.write_text(json.dumps(given))
    with pytest.raises(ConfigError, match="more than 100,000 points"):
        translate(path, Facts())

"""Levels given as an LR: read, written, and the same LR in groups with different peaks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from lrflow.errors import ConfigError
from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.schedules import Continued, Cosine, Horizon, Schedule
from lrflow.schedules.levels import AbsoluteLR
from lrflow.schedules.serialization import from_spec, to_spec

STEPS = 300
RUN = Horizon(STEPS, 30)
FLOORED = Schedule(Cosine(), floor="1e-4 lr")


def group(name: str, lr: float) -> Group:
    return Group(name, ((name, torch.nn.Parameter(torch.zeros(2))),), lr=lr, scale=1.0)


def test_texts_are_read_and_written() -> None:
    texts = {"1e-6 lr": 1e-6, "0.001lr": 1e-3, " .5 LR ": 0.5, "1_000 lr": 1000.0, "0 lr": 0.0}
    read = {text: AbsoluteLR.parse(text) for text in texts}
    assert {text: level.lr for text, level in read.items() if level is not None} == texts
    assert [AbsoluteLR.parse(text) for text in ("1e-6", "lr", "-1 lr", "1e999 lr", "1 lr of 0", "10%")] == [None] * 6
    known = AbsoluteLR(1e-6, 1e-3)
    assert float(known) == 1e-6 / 1e-3
    for level in (known, *read.values()):
        for other in (AbsoluteLR.parse(str(level)), copy.deepcopy(level)):
            assert (other.lr, other.peak, float(other)) == (level.lr, level.peak, float(level))


def test_the_floor_of_each_group_is_torchs_eta_min(optimizer: Callable[..., Any], run: Callable[..., Any]) -> None:
    peaks = [0.1, 0.02, 0.0003]
    sgd = optimizer(*peaks)
    theirs = run(sgd, CosineAnnealingLR(sgd, STEPS, eta_min=1e-4), STEPS)
    plan = Plan.compile([group(f"g{i}", lr) for i, lr in enumerate(peaks)], FLOORED, RUN)
    np.testing.assert_allclose(plan.lr(np.arange(STEPS)), theirs, rtol=1e-11)
    np.testing.assert_allclose(plan.lr(STEPS), [1e-4] * 3, rtol=1e-15)
    again = Plan.from_dict(plan.to_dict())
    assert again.fingerprint == plan.fingerprint
    assert again.lr(np.arange(STEPS)).tobytes() == plan.lr(np.arange(STEPS)).tobytes()
    assert all(check.ok for check in plan.check())


def test_a_floor_above_the_peak_of_a_group_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        Plan.compile([group("body", 0.1), group("embed", 1e-5)], FLOORED, RUN)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("schedule.floor", "0.0001 lr")
    assert problem.message == "is above the peak LR, 1e-05, of embed"


def test_a_start_of_the_warmup_and_a_resumed_run_have_the_level_too() -> None:
    schedule = Schedule(Cosine(), 30, "1e-3 lr", floor="1e-4 lr").of_peak(0.02)
    assert (schedule(0, RUN), schedule(STEPS, RUN)) == (1e-3 / 0.02, 1e-4 / 0.02)
    resumed = Continued(FLOORED, 100, RUN, "decay_now").of_peak(0.02)
    assert resumed(400, Horizon(400)) == 1e-4 / 0.02
    assert from_spec(to_spec(schedule)) == schedule
    assert to_spec(FLOORED)["floor"] == "0.0001 lr"
    assert replace(schedule, warmup=0).of_peak(0.5) == replace(schedule, warmup=0)  # it has its peak already

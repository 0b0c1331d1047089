"""The search for the shortest warmup: on known limits, on losses of known shapes, and on digits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.tuning.warmup import WarmupRun, WarmupSearch, is_unstable, search_warmup
from lrflow.tuning.warmup_record import warmup_lines

FALLING = np.exp(-np.arange(100) / 20)


def search(limit: float, gain: float) -> WarmupSearch:
    """LRs up to a limit are stable, and each step of warmup raises it by a factor."""

    def train(lr: float, warmup: int) -> WarmupRun:
        return WarmupRun(lr, warmup, 2 * (lr < limit * (1 + gain * warmup)), 2, 10)

    return search_warmup(0.1, train, [1.0, 10.0], [1, 10, 100], 1000)


@given(st.floats(0.11, 0.9), st.floats(0, 10))
def test_the_shortest_warmup_of_the_highest_lr(limit: float, gain: float) -> None:
    found = search(limit, gain)
    assert found.unstable is not None
    assert found.unstable / 10**0.25 <= limit * (1 + 1e-9)
    assert found.unstable >= limit
    fits = [
        (factor, [steps for steps in (1, 10, 100) if found.unstable * factor < limit * (1 + gain * steps)])
        for factor in (10.0, 1.0)
    ]
    best = next(((found.unstable * factor, steps[0]) for factor, steps in fits if steps), None)
    assert found.best == best
    assert found.steps == 10 * len(found.runs)


def test_the_answers() -> None:
    assert "no warmup needed" in warmup_lines(search(2.0, 0))[0]
    assert "no warmup helps" in warmup_lines(search(0.5, 0))[0]
    assert "schedule.warmup='10 steps'" in warmup_lines(search(0.5, 0.05))[0]
    assert "more than 5% of the run" in warmup_lines(search(0.5, 0.12))[1]
    assert search(0.05, 1).unstable == 0.1  # the configured LR itself


@pytest.mark.parametrize(
    ("losses", "unstable"),
    [
        (FALLING, False),
        (FALLING - 10, False),
        (FALLING + 0.1 * np.sin(np.arange(100)), False),
        (np.where(np.arange(100) > 60, 1.0, FALLING), True),  # rises after a fall
        (np.r_[1.0, np.full(10, 5.0), FALLING[11:]], True),  # early, with a recovery
        (np.r_[FALLING[:50], math.nan], True),
        (np.full(100, 3.0), False),
    ],
)
def test_instability(losses: np.ndarray, unstable: bool) -> None:
    assert is_unstable(losses.tolist(), 1.0) == unstable


def test_on_digits(lrflow_here: Callable[..., CompletedProcess[str]]) -> None:
    short = ["trainer=cpu", "find.steps=30", "find.seeds=1", "find.factors=[1]", "find.warmups=[2,10]"]
    done = lrflow_here("task=find", "find=warmup", "optimizer=sgd", "optimizer.lr=2", *short)
    assert done.returncode == 0, done.stderr
    (folder,) = Path("outputs").iterdir()
    assert {path.name for path in folder.glob("find.*")} == {"find.csv", "find.json", "find.png"}
    found = json.loads((folder / "find.json").read_text())
    assert found["warmups"] == [2, 10]
    assert f"Cost: {found['steps']:,} steps." in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["find.warmups=[90%]"], "at most half of the run"),
        (["find.warmups=[]"], "at least one entry"),
        (["find.factors=[0.1]"], "a number of at least 1"),
        (["find.kind=warmpu"], "did you mean warmup?"),
        (["optimizer=prodigy"], "estimates the LR itself"),
    ],
)
def test_bad_input(words: list[str], message: str, lrflow_here: Callable[..., CompletedProcess[str]]) -> None:
    done = lrflow_here("task=find", "find=warmup", "trainer.accelerator=cpu", *words)
    assert done.returncode == 2
    assert message in " ".join((done.stdout + done.stderr).split())

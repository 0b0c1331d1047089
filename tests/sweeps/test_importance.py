from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.importance import importance


@pytest.fixture
def swept(make_run) -> Path:
    """12 trials of three seeds each, whose loss depends on the LR and a little on the schedule."""
    number = 0
    for lr in (1e-4, 1e-3, 1e-2, 1e-1):
        for schedule, worse in (("cosine", 0.0), ("linear", 0.25), ("wsd", 0.5)):
            for seed in range(3):
                typed = [f"optimizer.lr={lr}", f"schedule={schedule}", f"seed={seed}"]
                folder = make_run(number, typed, {"val/loss": float(np.log10(lr / 1e-2) ** 2 + worse)})
                number += 1
    return folder


@pytest.mark.parametrize("optuna", [True, False])
def test_the_most_important_key_is_first(optuna: bool, swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if optuna:
        pytest.importorskip("optuna")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = importance(read_sweep(swept))
    assert list(found.shares) == ["optimizer.lr", "schedule"]
    assert found.trials == 12
    assert ("fANOVA" in found.method) == optuna
    assert found.shares["optimizer.lr"] > 0.9
    assert found.shares["schedule"] > 0.01


def test_without_optuna_importance_is_the_variance_between_values(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sweep = read_sweep(swept)
    costs = np.array([sweep.cost(trial) for trial in sweep.trials]).reshape(4, 3)
    found = importance(sweep)
    assert found.shares["optimizer.lr"] == pytest.approx(costs.mean(1).var() / costs.var())
    assert found.shares["schedule"] == pytest.approx(costs.mean(0).var() / costs.var())


def test_no_importance_for_few_trials_or_a_single_key(make_run) -> None:
    for number in range(12):
        folder = make_run(number, [f"optimizer.lr={0.1 / (number + 1)}"], {"val/loss": float(number)})
    assert importance(read_sweep(folder)) is None

"""What is found in runs that were made once, by `benchmarks.health`; their series are in recorded.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrflow.health import Diverging, Facts, Overfitting, Plateau, TooHigh, TooLow, WarmupTooShort
from lrflow.health.detector import Watch
from lrflow.metric import Metric
from lrflow.training import Block
from lrflow.training.group_norms import GroupNorms

RECORDED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "recorded.json").read_text())


def kinds(run: dict[str, Any]) -> list[str]:
    """Show a run to the detectors as it went, and return the kinds of their findings."""
    loss, steps = np.array(run["loss"]), len(run["loss"])
    rates = np.broadcast_to(run["lr"] * np.array(run["share"]), (steps,))[:, None]
    weight = np.array(run["weight"])[:, None]
    norms = GroupNorms(np.array(run["measured"]), weight, weight, weight, np.array(run["cosine"], dtype=float))
    block = Block(0, loss, np.array(run["grad_norm"]), np.ones(steps), rates, rates, norms=norms)
    facts = Facts(
        steps,
        run["warmup"],
        run["lr"],
        decays=run["schedule"] != "constant",
        momentum=run["momentum"],
        metric=Metric("val/loss", "min"),
    )
    detectors = {
        "diverging": Diverging(),
        "too_high": TooHigh(),
        "warmup_too_short": WarmupTooShort(),
        "too_low": TooLow(),
        "overfitting": Overfitting(),
        "plateau": Plateau(),
    }
    watch, found = Watch(facts, detectors), []
    edges = [0, *run["validated"]]
    for start, step, value in zip(edges, run["validated"], run["validation"], strict=False):
        found += [finding.kind for finding in watch.extend(block.part(start, step))]
        found += [finding.kind for finding in watch.add_validation(step, {"val/loss": value})]
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("saturated", ["too_high"]),
        ("jumps", ["too_high", "overfitting"]),
        ("lost", ["too_high"]),
        ("risen and jumps", ["diverging"]),
        ("converged", []),
        ("hard", []),
        ("sorted", []),
        ("noisy", []),
    ],
)
def test_recorded_runs(name: str, expected: list[str]) -> None:
    assert kinds(RECORDED[name]) == expected

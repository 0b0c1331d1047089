"""What counts as a loss that diverges."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.health import Diverging
from tests.health.histories import history, judged

STEPS = np.arange(400)
FALLS = 2.3 * np.exp(-STEPS / 100)
COSINE = 0.3 * (1 + np.cos(np.pi * STEPS / 400)) / 2
JUMPS = np.where(STEPS < 200, FALLS, 9.0)
WILD = np.where(STEPS < 10, 2.3, np.where(STEPS % 3, 9.0, 3.0))


@pytest.mark.parametrize(
    ("loss", "growth", "lr", "since"),
    [
        (FALLS, 5.0, 0.3, None),
        (2.3 + 0 * STEPS, 5.0, 0.3, None),
        (JUMPS, 5.0, 0.3, 200),
        (JUMPS, None, 0.3, 200),
        (JUMPS, 1.05, 0.3, 200),
        (JUMPS / 1.8 * (STEPS >= 200) + FALLS * (STEPS < 200), 1.05, 0.3, None),
        (np.where(STEPS == 200, 100.0, FALLS), 5.0, 0.3, None),
        (2.3 * np.exp(STEPS / 100), 5.0, 0.3, 0),
        (np.where(STEPS < 20, 2.3, 20 * np.exp(-STEPS / 100)), 5.0, 0.3, None),
        (WILD, None, COSINE, 0),
        (WILD[:200], None, COSINE[:200], None),
        (WILD, None, 0.3, 0),
        (np.where(STEPS < 300, FALLS, np.nan), 5.0, 0.3, None),
        (np.where(STEPS < 10, 2.3 * 3.0**STEPS, np.nan)[:20], 5.0, 0.3, 5),
    ],
    ids=[
        "falls",
        "stays",
        "jumps",
        "no norms",
        "explodes",
        "sorted",
        "spike",
        "rises",
        "returns",
        "wild, nearly over",
        "wild, decays",
        "wild",
        "nan",
        "over",
    ],
)
def test_judge(loss: np.ndarray, growth: float | None, lr: np.ndarray | float, since: int | None) -> None:
    finding = judged(Diverging(), "diverging", history(loss, growth, lr, steps=len(STEPS)))
    if since is None:
        assert finding is None
    else:
        assert finding is not None
        assert abs(finding.since - since) <= 20
        assert finding.remedy.startswith("optimizer.lr=0.1,")


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("steps", [60, 400, 20_000])
def test_neither_the_unit_of_the_loss_nor_the_length_of_the_run_matters(scale: float, steps: int) -> None:
    share = np.arange(steps) / steps
    for loss, expected in ((np.exp(-4 * share), False), (np.where(share < 0.5, np.exp(-4 * share), 4.0), True)):
        assert (judged(Diverging(), "diverging", history(scale * loss, 5.0)) is not None) is expected


def test_the_loss_of_a_policy_gradient_says_nothing() -> None:
    assert judged(Diverging(), "diverging", history(JUMPS, 5.0, losses=False)) is None

"""What counts as an LR that is too high, without a loss that diverges."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.health import Oscillating, TooHigh
from tests.health.histories import history, judged

STEPS = np.arange(400)
FALLS = 2.3 * np.exp(-STEPS / 100)
STUCK = 2.3 + 0.01 * np.cos(STEPS)
LOST = np.where(STEPS < 100, FALLS, 2.2)
RESTART = 2.3 * np.exp(-(STEPS % 200) / 50) * np.where(STEPS < 200, 1, 0.5)


@pytest.mark.parametrize(
    ("loss", "growth", "since"),
    [
        (FALLS, 4.0, None),
        (STUCK, 1.1, None),
        (STUCK, None, None),
        (STUCK, 4.0, 0),
        (LOST, 4.0, 100),
        (RESTART, 4.0, None),
        (RESTART[:240], 4.0, None),
        (np.where(STEPS < 200, FALLS, 9.0), 4.0, None),
    ],
    ids=["falls", "too-low", "no-norms", "stuck", "lost", "restart", "restarting", "diverging"],
)
def test_too_high(loss: np.ndarray, growth: float | None, since: int | None) -> None:
    finding = judged(TooHigh(), "too_high", history(loss, growth, steps=400))
    if since is None:
        assert finding is None
    else:
        assert finding is not None
        assert abs(finding.since - since) <= 20
        assert finding.remedy.startswith("optimizer.lr=0.1,")


TO_AND_FRO = np.where(STEPS % 2, 1.2, 0.1) * np.minimum(1, 2.3 * np.exp(-STEPS / 20) + 1)


@pytest.mark.parametrize(
    ("loss", "growth", "lr", "found"),
    [
        (FALLS, 2.0, 0.3, False),
        (TO_AND_FRO, 2.0, 0.3, True),
        (TO_AND_FRO, 1.1, 0.3, False),
        (TO_AND_FRO, 2.0, np.linspace(0.3, 0, 400), False),
        (np.where(STEPS % 40 < 20, 1.2, 0.1), 2.0, 0.3, False),
        (0.01 * TO_AND_FRO + 0.05 + 2 * (STEPS < 5), 2.0, 0.3, False),
    ],
    ids=["falls", "to-and-fro", "small-growth", "decays", "sorted", "small"],
)
def test_oscillating(loss: np.ndarray, growth: float, lr: np.ndarray | float, found: bool) -> None:
    assert (judged(Oscillating(), "oscillating", history(loss, growth, lr)) is not None) is found

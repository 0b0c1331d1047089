"""What counts as an LR that is too high, without a loss that diverges."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.health import Oscillating, TooHigh
from lrflow.metric import Metric
from tests.health.histories import history, judged

STEPS = np.arange(400)
FALLS = 2.3 * np.exp(-STEPS / 100)
STUCK = 2.3 + 0.01 * np.cos(STEPS)
LOST = np.where(STEPS < 100, FALLS, 2.2)
RESTART = 2.3 * np.exp(-(STEPS % 200) / 50) * np.where(STEPS < 200, 1, 0.5)


HALF_LOST = np.where(STEPS < 100, FALLS, 1.5)
STOPS = np.maximum(FALLS, 0.6) - 1e-5 * STEPS
JUMPS = np.maximum(FALLS, 0.5) * np.where((STEPS < 100) | (STEPS % 2 > 0), 1.0, 0.4)


@pytest.mark.parametrize(
    ("loss", "growth", "since"),
    [
        (FALLS, 4.0, None),
        (HALF_LOST, 4.0, 100),
        (HALF_LOST, 1.1, None),
        (STOPS, 2.0, 230),
        (STOPS, 1.2, None),
        (STOPS / 8 + 2 * (STEPS < 5), 2.0, None),
        (JUMPS, None, 360),
        (STUCK, 1.1, None),
        (STUCK, None, None),
        (STUCK, 4.0, 0),
        (LOST, 4.0, 100),
        (RESTART, 4.0, None),
        (RESTART[:240], 4.0, None),
        (np.where(STEPS < 200, FALLS, 9.0), 4.0, None),
    ],
    ids=[
        "falls", "half-lost", "sorted", "stalled", "at-its-floor", "near-zero", "jumps",
        "too-low", "no-norms", "stuck", "lost", "restart", "restarting", "diverging",
    ],
)  # fmt: skip
def test_too_high(loss: np.ndarray, growth: float | None, since: int | None) -> None:
    finding = judged(TooHigh(), "too_high", history(loss, growth, steps=400))
    if since is None:
        assert finding is None
    else:
        assert finding is not None
        assert abs(finding.since - since) <= 20
        assert finding.remedy == f"optimizer.lr=0.1, or {'task=find' if since else 'schedule.warmup=5%'}"


def test_a_longer_warmup_is_no_remedy() -> None:
    finding = judged(TooHigh(), "too_high", history(STUCK, 4.0, warmup=20))
    assert finding is not None
    assert finding.remedy == "optimizer.lr=0.1, or task=find"


def test_too_high_at_an_lr_that_does_not_stay_at_its_peak() -> None:
    for loss in (STOPS, JUMPS):
        assert judged(TooHigh(), "too_high", history(loss, 2.0)) is not None
        assert judged(TooHigh(), "too_high", history(loss, 2.0, decays=True)) is None
        assert judged(TooHigh(), "too_high", history(loss, 2.0, np.where(STEPS < 200, 0.3, 0.1))) is None


@pytest.mark.parametrize(
    ("growth", "gradient", "loss", "found"),
    [(4.0, 0.2, 1.5, True), (1.2, 0.2, 1.5, False), (4.0, 0.9, 1.5, False), (4.0, 0.2, 0.5, False)],
    ids=["saturated", "the weights stay", "gradients as at the start", "low loss"],
)
def test_gradients_that_have_vanished(growth: float, gradient: float, loss: float, found: bool) -> None:
    falls = loss + (2.3 - loss) * np.exp(-STEPS / 100)
    shown = history(falls, growth, grad_norm=np.where(STEPS < 20, 1.0, gradient), decays=True)
    assert (judged(TooHigh(), "too_high", shown) is not None) is found


@pytest.mark.parametrize(
    ("returns", "growth", "found"),
    [
        ([20, 20, 20, 20], 5.0, True),
        ([20, 400, 60, 50, 40], 5.0, True),
        ([20, 20, 20, 20], 1.1, False),
        ([20, 60, 200, 400], 5.0, False),
        ([20, 20], 5.0, False),
    ],
    ids=["stuck", "lost", "the weights stay", "rises", "too few"],
)
def test_the_return_of_a_policy(returns: list[float], growth: float, found: bool) -> None:
    shown = history(STUCK, growth, losses=False, metric=Metric("val/return", "max"))
    for step, value in zip(range(80, 401, 80), returns, strict=False):
        shown.add_validation(step, {"val/return": value})
    assert (judged(TooHigh(), "too_high", shown) is not None) is found


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

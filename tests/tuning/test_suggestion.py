"""The LR that several sweeps suggest: interval, confidence and doubts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from lrflow.tuning import suggestion
from lrflow.tuning.suggestion import _tail, compare_with_interval, suggest_lr

RATES = np.geomspace(1e-6, 10, 200)
POSITION = np.log10(RATES)


def fall(middle: float = -3.0, lowest: float = -1.0) -> np.ndarray:
    """A fall around 10^middle, lowest near 10^lowest, and an explosion after that."""
    return 2.3 / (1 + np.exp(4 * (POSITION - middle))) + np.exp(6 * (POSITION - lowest - 0.5))


def noisy(curve: np.ndarray, sweeps: int, scale: float = 0.05, seed: int = 0) -> np.ndarray:
    return curve + np.random.default_rng(seed).normal(scale=scale, size=(sweeps, len(curve)))


def test_suggests_an_lr_with_confidence() -> None:
    found = suggest_lr(RATES, noisy(fall(), 5))
    assert found.confident
    assert found.interval[0] <= found.lr <= found.interval[1]
    assert found.interval[1] / found.interval[0] < 2
    assert found.marks["steepest"] < found.lr < found.marks["tenth"] * 10
    assert found.ceiling is not None
    assert found.lr < found.ceiling
    assert found == suggest_lr(RATES, noisy(fall(), 5))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_the_interval_contains_the_lr_of_the_noiseless_curve(seed: int) -> None:
    """Widened by a factor of 1.5, because its confidence is only 90%."""
    few = suggest_lr(RATES, noisy(fall(), 6, 0.3, seed))
    assert few.interval[0] / 1.5 <= suggest_lr(RATES, noisy(fall(), 1, 0.0)).lr <= few.interval[1] * 1.5


@pytest.mark.parametrize(
    ("losses", "doubt"),
    [
        (lambda: noisy(np.zeros(200), 5), "never falls by more than its noise"),
        (lambda: noisy(fall(0.5, 5.0), 5), "the range ends too low"),
        (lambda: noisy(fall(-8.0, -6.0), 5), "the range starts too high"),
        (lambda: noisy(fall(), 1), "one sweep does not show"),
        (lambda: np.stack([fall(-4.5, -3.0), fall(-1.5, 0.0)]), "the sweeps disagree"),
    ],
)
def test_doubts(losses: Callable[[], np.ndarray], doubt: str) -> None:
    found = suggest_lr(RATES, losses())
    assert not found.confident
    assert any(doubt in each for each in found.doubts), found.doubts


def test_a_metric_to_maximize_mirrors_one_to_minimize() -> None:
    losses = noisy(fall(), 5)
    found, turned = (
        suggest_lr(RATES, losses),
        suggest_lr(RATES, -losses, name="train/return", more_is_better=True),
    )
    assert turned == found
    doubts = suggest_lr(RATES, -noisy(fall(0.5, 5.0), 5), name="train/return", more_is_better=True).doubts
    assert doubts == ("train/return still rises at the highest LR, 10: the range ends too low",)


@pytest.mark.parametrize("offset", [-100.0, -2.0])
def test_negative_losses(offset: float) -> None:
    losses = noisy(fall(), 4)
    found, lower = suggest_lr(RATES, losses), suggest_lr(RATES, losses + offset)
    assert lower.lr == pytest.approx(found.lr)
    assert lower.ceiling == found.ceiling
    assert lower.confident


@pytest.mark.parametrize("sweeps", [2, 3, 5, 8])
def test_few_sweeps_have_wider_quantiles(sweeps: int) -> None:
    """Quantiles of the normal distribution as far out as Student's t, times sqrt(n / (n - 1))."""
    tail = _tail(sweeps)
    assert norm.ppf(tail) == pytest.approx(t.ppf(0.05, sweeps - 1) * np.sqrt(sweeps / (sweeps - 1)))
    assert tail < 0.05


def test_the_interval_of_three_sweeps_often_contains_the_true_lr(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves are shifted by 0.15 decades (one sigma); in a quarter of the cases all three lie on one side."""
    monkeypatch.setattr(suggestion, "RESAMPLES", 40)
    shifts = np.random.default_rng(1).normal(scale=0.15, size=(20, 3))
    truth = suggest_lr(RATES, fall()[None]).lr
    held, widths = 0, []
    for index, three in enumerate(shifts):
        sweeps = np.stack([fall(-3 + shift, -1 + shift) for shift in three])
        low, high = suggest_lr(RATES, sweeps, index).interval
        held += low <= truth <= high
        widths.append(np.log10(high / low))
    assert held >= 13
    assert 0.1 < np.median(widths) < 0.5


def test_raises_if_every_sweep_diverges_at_once() -> None:
    with pytest.raises(ValueError, match="first steps"):
        suggest_lr(RATES, np.full((3, 200), np.nan))


def test_ignores_a_minority_of_sweeps_that_diverge_at_once() -> None:
    losses = noisy(fall(), 5)
    losses[:2] = np.nan
    assert suggest_lr(RATES, losses).lr == pytest.approx(suggest_lr(RATES, losses[2:]).lr, rel=0.2)
    losses[2] = np.nan
    with pytest.raises(ValueError, match="first steps"):
        suggest_lr(RATES, losses)


def test_one_short_sweep_does_not_shorten_the_others() -> None:
    losses = noisy(fall(), 5)
    losses[0, 60:] = np.nan
    assert suggest_lr(RATES, losses).lr == pytest.approx(suggest_lr(RATES, losses[1:]).lr, rel=0.2)


@pytest.mark.parametrize(
    ("lr", "ceiling", "text"),
    [
        (0.3, 0.1, "0.3 is 3 times the LR at which the loss diverged"),
        (0.1, 0.1, "0.1 is 1 times the LR at which the loss diverged"),
        (0.06, 0.1, "0.06 is 1.5 times the top of the interval"),
        (0.06, None, "0.06 is 1.5 times the top of the interval"),
        (0.03, 0.1, "0.03 lies in the interval"),
        (0.002, 0.1, "0.002 is 5 times below the interval"),
    ],
)
def test_compares_an_lr_with_the_interval(lr: float, ceiling: float | None, text: str) -> None:
    assert compare_with_interval(lr, (0.01, 0.04), ceiling) == text

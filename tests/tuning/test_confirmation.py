"""The choice of LRs for trial runs, on losses with a known best LR."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.tuning.confirmation import FIRST_STEP, confirm_lr


def bowl(best: float, curvature: float = 0.3, cliff: float = math.inf):
    def loss(lr: float) -> float:
        return math.nan if lr > cliff else 1.0 + curvature * math.log10(lr / best) ** 2

    return loss


@given(st.floats(-0.9, 0.9), st.floats(0.01, 10.0))
def test_finds_the_minimum_of_a_parabola(off: float, curvature: float) -> None:
    best = 1e-2 * 10**off
    found = confirm_lr(1e-2, bowl(best, curvature), runs=5)
    assert found.lr == pytest.approx(best, rel=1e-6)
    assert found.confident
    low, high = found.interval
    assert low <= found.lr <= high


def test_tries_both_sides_then_follows_the_falling_loss() -> None:
    asked: list[float] = []

    def loss(lr: float) -> float:
        asked.append(lr)
        return bowl(1.0)(lr)

    found = confirm_lr(0.05, loss, runs=6)
    assert asked[:5] == pytest.approx(
        [
            0.05,
            0.05 * 10**FIRST_STEP,
            0.05 * 10**-FIRST_STEP,
            0.05 * 10 ** (2 * FIRST_STEP),
            0.05 * 10 ** (3 * FIRST_STEP),
        ]
    )
    assert len(asked) == len(set(asked)) == 6
    assert found.lr == pytest.approx(1.0, rel=0.02)


def test_ignores_a_plateau_of_high_lrs() -> None:
    def loss(lr: float) -> float:  # too high an LR ends on a plateau that slopes down a little
        return bowl(1e-3)(lr) if lr < 5e-3 else 2.0 - 0.01 * math.log10(lr)

    assert confirm_lr(1e-2, loss, runs=4).lr == pytest.approx(2e-3, rel=0.7)


@given(st.integers(3, 9), st.floats(-2, 2))
def test_makes_at_most_the_given_number_of_runs(runs: int, off: float) -> None:
    found = confirm_lr(1e-2, bowl(1e-2 * 10**off), runs)
    assert len(found.tried) <= runs
    assert [lr for lr, _ in found.tried] == sorted(lr for lr, _ in found.tried)


def test_doubts_a_best_lr_at_the_edge() -> None:
    found = confirm_lr(1e-3, bowl(10.0), runs=3)
    assert not found.confident
    assert "the best LR, 0.00316, is the highest that was tried" in found.doubts[0]
    found = confirm_lr(1.0, bowl(1e-4), runs=3)
    assert "the best LR, 0.316, is the lowest that was tried" in found.doubts[0]


def test_stays_below_a_divergence() -> None:
    cliff = 0.2
    found = confirm_lr(0.1, bowl(1.0, cliff=cliff), runs=5)
    assert 0.1 <= found.lr <= cliff
    assert found.interval[0] <= found.lr <= found.interval[1]
    assert math.isinf(found.tried[-1][1])


def test_lowers_a_start_that_diverges() -> None:
    assert confirm_lr(10.0, bowl(0.5, cliff=2.0), runs=5).lr == pytest.approx(0.5, rel=0.5)
    with pytest.raises(ValueError, match="every trial run diverged"):
        confirm_lr(1.0, lambda lr: math.nan, runs=3)


def test_noise_widens_the_interval() -> None:
    def width(noise: float) -> float:
        signs = iter([1, -1, -1, 1, -1, 1])
        found = confirm_lr(1e-2, lambda lr: bowl(2e-2, 1.0)(lr) + noise * next(signs), runs=6)
        assert found.interval[0] <= found.lr <= found.interval[1]
        return found.interval[1] / found.interval[0]

    assert width(0.0) < width(0.1)

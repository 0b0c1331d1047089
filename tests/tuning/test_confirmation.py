"""The search among trial runs, on losses whose best LR is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.tuning.confirmation import STEP, confirm_lr


def bowl(best: float, curvature: float = 0.3, cliff: float = math.inf):
    def loss(lr: float) -> float:
        return math.nan if lr > cliff else 1.0 + curvature * math.log10(lr / best) ** 2

    return loss


@given(st.floats(-0.9, 0.9), st.floats(0.01, 10.0))
def test_a_parabola_is_met_exactly(off: float, curvature: float) -> None:
    best = 1e-2 * 10**off
    found = confirm_lr(1e-2, bowl(best, curvature), runs=5)
    assert found.lr == pytest.approx(best, rel=1e-6)
    assert found.confident
    low, high = found.interval
    assert low <= found.lr <= high


def test_it_looks_to_both_sides_then_goes_to_where_the_loss_falls() -> None:
    asked: list[float] = []

    def loss(lr: float) -> float:
        asked.append(lr)
        return bowl(1.0)(lr)

    found = confirm_lr(0.05, loss, runs=6)
    assert asked[:5] == pytest.approx(
        [0.05, 0.05 * 10**STEP, 0.05 * 10**-STEP, 0.05 * 10 ** (2 * STEP), 0.05 * 10 ** (3 * STEP)]
    )
    assert len(asked) == len(set(asked)) == 6
    assert found.lr == pytest.approx(1.0, rel=0.02)


def test_a_plateau_above_does_not_lead_away() -> None:
    def loss(lr: float) -> float:  # too high an LR ends on a plateau that slopes down a little
        return bowl(1e-3)(lr) if lr < 5e-3 else 2.0 - 0.01 * math.log10(lr)

    assert confirm_lr(1e-2, loss, runs=4).lr == pytest.approx(2e-3, rel=0.7)


@given(st.integers(3, 9), st.floats(-2, 2))
def test_no_more_runs_than_asked_for(runs: int, off: float) -> None:
    found = confirm_lr(1e-2, bowl(1e-2 * 10**off), runs)
    assert len(found.tried) <= runs
    assert [lr for lr, _ in found.tried] == sorted(lr for lr, _ in found.tried)


def test_one_that_was_not_bracketed_is_told() -> None:
    found = confirm_lr(1e-3, bowl(10.0), runs=3)
    assert not found.confident
    assert "the highest LR that was tried, 0.00316" in found.doubts[0]
    found = confirm_lr(1.0, bowl(1e-4), runs=3)
    assert "the lowest LR that was tried, 0.316" in found.doubts[0]


def test_beside_a_cliff_the_answer_is_one_that_ended_well() -> None:
    cliff = 0.2
    found = confirm_lr(0.1, bowl(1.0, cliff=cliff), runs=5)
    assert 0.1 <= found.lr <= cliff
    assert found.interval[0] <= found.lr <= found.interval[1]
    assert math.isinf(found.tried[-1][1])


def test_a_start_that_diverges_goes_down() -> None:
    assert confirm_lr(10.0, bowl(0.5, cliff=2.0), runs=5).lr == pytest.approx(0.5, rel=0.5)
    with pytest.raises(ValueError, match="every trial run diverged"):
        confirm_lr(1.0, lambda lr: math.nan, runs=3)


def test_the_interval_widens_with_noise() -> None:
    def width(noise: float) -> float:
        signs = iter([1, -1, -1, 1, -1, 1])
        found = confirm_lr(1e-2, lambda lr: bowl(2e-2, 1.0)(lr) + noise * next(signs), runs=6)
        assert found.interval[0] <= found.lr <= found.interval[1]
        return found.interval[1] / found.interval[0]

    assert width(0.0) < width(0.1)

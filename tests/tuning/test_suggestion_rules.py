"""Smoothing, divergence and rules, on curves with a known answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.tuning import suggestion
from lrflow.tuning.range_test import CHECK_EVERY
from lrflow.tuning.suggestion import RULES, divergence, smooth

RATES = np.geomspace(1e-6, 10, 200)
POSITION = np.log10(RATES)


def fall(middle: float = -3.0, lowest: float = -1.0, rises: float = 1.0) -> np.ndarray:
    """A fall around 10^middle, lowest near 10^lowest, and an explosion after that."""
    return 2.3 / (1 + np.exp(4 * (POSITION - middle))) + rises * np.exp(6 * (POSITION - lowest - 0.5))


def noisy(curve: np.ndarray, sweeps: int, scale: float = 0.05, seed: int = 0) -> np.ndarray:
    return curve + np.random.default_rng(seed).normal(scale=scale, size=(sweeps, len(curve)))


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-10, 10))
def test_smoothing_preserves_lines_and_constants(level: float, slope: float) -> None:
    values, slopes = smooth(RATES, level + slope * POSITION)
    tolerance = 1e-9 * (1 + abs(level))
    np.testing.assert_allclose(values, level + slope * POSITION, atol=tolerance)
    np.testing.assert_allclose(slopes, slope, atol=1e3 * tolerance)
    constant, _ = smooth(RATES, np.full(len(RATES), level))
    assert (constant == level).all()


def test_smoothing_does_not_lag() -> None:
    """A running mean would move the steepest point of a symmetric fall to the right."""
    assert np.log10(suggestion.steepest(RATES, fall(-3.0, 3.0))) == pytest.approx(-3.0, abs=0.04)
    assert np.log10(suggestion.lowest(RATES, (POSITION + 2.0) ** 2)) == pytest.approx(-2.0, abs=0.04)


def test_smoothing_leaves_isolated_points() -> None:
    values, slopes = smooth(np.array([1e-6, 1e-3, 1.0]), np.array([3.0, 2.0, 1.0]))
    assert values.tolist() == [3.0, 2.0, 1.0]
    assert slopes.tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.integers(0, 100))
def test_rules_are_invariant_to_scale_and_offset_of_the_loss(scale: float, offset: float, seed: int) -> None:
    losses = noisy(fall(), 1, seed=seed)[0]
    moved = scale * losses + offset * scale
    end = divergence(RATES, losses)
    assert divergence(RATES, moved) == end
    for rule in RULES.values():
        assert rule(RATES[:end], moved[:end]) == pytest.approx(rule(RATES[:end], losses[:end]), rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100))
def test_rules_scale_with_the_range(factor: float) -> None:
    losses = noisy(fall(), 1)[0]
    for rule in RULES.values():
        assert rule(factor * RATES, losses) == pytest.approx(factor * rule(RATES, losses))


def test_divergence() -> None:
    assert divergence(RATES, fall(-3.0, 5.0)) == len(RATES)
    lost = fall()
    lost[150:] = np.nan
    assert divergence(RATES, lost) <= 150
    where = RATES[divergence(RATES, noisy(fall(), 1)[0])]
    # The smoothed curve is back at its start, and as much above it as it was below, near 10^-0.4.
    assert 10**-0.8 < where < 10**-0.2
    assert divergence(RATES, np.full(len(RATES), -7.0)) == len(RATES)
    assert divergence(RATES, np.random.default_rng(0).normal(size=len(RATES))) == len(RATES)
    assert divergence(RATES[:2], np.array([1.0, np.inf])) == 1


@pytest.mark.parametrize("first", [1.0, 30.0])
def test_a_sweep_does_not_diverge_at_its_first_points(first: float) -> None:
    """The initial loss is measured there, even if the loss falls at once or the first one is an outlier."""
    falls_at_once = 3.0 - 0.3 * (POSITION - POSITION[0])
    falls_at_once[0] *= first
    assert divergence(RATES, falls_at_once) == len(RATES)
    learns = noisy(fall(), 2)[0]
    before = divergence(RATES, learns)
    learns[0] *= first
    assert abs(divergence(RATES, learns) - before) <= CHECK_EVERY


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_non_finite_first_loss_is_a_divergence(lost: float) -> None:
    losses = fall()
    losses[0] = lost
    assert divergence(RATES, losses) == 0


def longest_fall(values: np.ndarray) -> list[int]:
    """Return the longest decreasing subsequence, found by trying all of them."""
    best: list[int] = []
    for mask in range(1, 1 << len(values)):
        chosen = [index for index in range(len(values)) if mask >> index & 1]
        if all(values[a] > values[b] for a, b in itertools.pairwise(chosen)) and len(chosen) > len(best):
            best = chosen
    return best


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 10, width=16), min_size=3, max_size=9, unique=True))
def test_valley_lies_in_the_longest_fall(values: list[float]) -> None:
    rates = 10.0 ** np.arange(len(values))  # so far apart that nothing is smoothed
    found = suggestion.valley(rates, np.array(values))
    length = len(longest_fall(np.array(values)))
    places = [
        start + int((end - start) / 3) + int((end - start) / 3 / 2)
        for start in range(len(values))
        for end in range(start, len(values))
        if _fall_from_to(values, start, end) == length
    ]
    assert int(np.log10(found).round()) in places


def _fall_from_to(values: list[float], start: int, end: int) -> int:
    """Return the number of points of the longest fall from `start` to `end`."""
    inside = [index for index in range(start + 1, end) if values[start] > values[index] > values[end]]
    if start == end:
        return 1
    if values[start] <= values[end]:
        return 0
    return 2 + len(longest_fall(np.array([values[index] for index in inside]))) if inside else 2

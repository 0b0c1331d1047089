"""The multi-power law against a slow loop, and with gamma = 0 against the noise of the functional scaling law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lrflow.tuning.loss_law import LossLaw, RateCurve, spread

LAW = LossLaw(L0=2.0, A=0.5, alpha=0.5, B=30.0, C=2.0, beta=0.6, gamma=0.64)
COSINE = 3e-3 * np.r_[np.linspace(0.1, 1, 50), 0.5 * (1 + np.cos(np.pi * np.linspace(0, 1, 950)))]


def slow(law: LossLaw, rates: np.ndarray, after: int) -> float:
    """The law as its paper writes it, one change after the other; the LR before the first step is 0."""
    found = law.L0 + law.A * sum(rates[:after]) ** -law.alpha
    lowest = 1e-9 * max(rates)
    for step in range(after):
        change = rates[step] - (rates[step - 1] if step else 0.0)
        x = max(rates[step], lowest) ** -law.gamma * sum(rates[step:after])
        found += law.B * change * (1 - (1 + law.C * x) ** -law.beta)
    return found


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0.0, 1e-4, 1e-3, 2e-3, 0.1])),
    st.floats(0.0, 1.2),
)
def test_the_law_is_what_its_paper_writes(rates: np.ndarray, gamma: float) -> None:
    rates = np.r_[1e-3, rates]
    law = LossLaw(2.0, 0.5, 0.4, 30.0, 2.0, 0.6, gamma)
    expected = [slow(law, rates, after) for after in range(1, len(rates) + 1)]
    np.testing.assert_allclose(law.loss(rates), expected, rtol=1e-10)


def test_points_and_merged_changes_do_not_change_the_law() -> None:
    points = spread(40, 1000, 30)
    exact = LAW.loss(COSINE)
    np.testing.assert_array_equal(LAW.loss(COSINE, points[::-1]), exact[points - 1][::-1])
    merged = RateCurve.of(COSINE).merged(points, 100)
    assert len(merged.at) < 200 < len(RateCurve.of(COSINE).at)
    np.testing.assert_allclose(LAW.loss(merged, points), exact[points - 1], rtol=1e-4)


def test_with_gamma_0_the_changes_are_the_noise_of_the_functional_scaling_law() -> None:
    law = LossLaw(2.0, 0.5, 0.5, 30.0, 2.0, 0.6, 0.0)
    kernel = lambda time: law.beta * law.C * (1 + law.C * time) ** -(1 + law.beta)  # noqa: E731
    total = np.concatenate([[0.0], np.cumsum(COSINE)])
    middle = (total[1:] + total[:-1]) / 2
    noise = law.B * sum(kernel(total[-1] - middle) * COSINE * COSINE)
    assert law.loss(COSINE)[-1] == pytest.approx(law.L0 + law.A * total[-1] ** -law.alpha + noise, rel=1e-6)


@pytest.mark.parametrize("rates", [[], [0.0, 0.0], [1e-3, -1e-3], [np.nan, 1.0], [[1.0]]])
def test_rates_that_are_none(rates: list[float]) -> None:
    with pytest.raises(ValueError, match="learning rates"):
        RateCurve.of(np.array(rates))

"""Fitting the law: known parameters are found again, the band holds what it should, and what cannot be fitted."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.schedules import Horizon
from lrflow.tuning.best_schedule import rank_schedules
from lrflow.tuning.loss_fit import Losses, fit_law
from lrflow.tuning.loss_law import LossLaw, RateCurve, spread

LAW = LossLaw(L0=1.5, A=0.3, alpha=0.45, B=40.0, C=5.0, beta=0.6, gamma=0.64)
WARMUP = np.linspace(0, 3e-3, 101)[1:]
TRUNK = np.r_[WARMUP, np.full(1900, 3e-3)]
BRANCH = np.r_[TRUNK[:1200], 3e-3 * (1 - np.arange(300) / 300)]
COSINE = np.r_[WARMUP, 1.5e-3 * (1 + np.cos(np.pi * np.arange(2900) / 2900))]


def measured(
    rates: np.ndarray, first: int, every: int, noise: float = 0.0, seed: int = 0, law: LossLaw = LAW
) -> Losses:
    after = np.arange(first, len(rates) + 1, every)
    scatter = np.random.default_rng(seed).normal(0, noise, len(after))
    return Losses("run", rates, after, law.loss(rates, after) * np.exp(scatter))


def test_known_parameters_are_found_again() -> None:
    fit = fit_law([measured(TRUNK, 120, 20), measured(BRANCH, 1205, 10)], resampled=0)
    found = fit.law.as_dict()
    for name, wanted in LAW.as_dict().items():
        assert found[name] == pytest.approx(wanted, rel=0.05), name
    assert fit.r2 > 0.99999
    assert fit.predict(COSINE, np.array([1000, 3000])).loss == pytest.approx(LAW.loss(COSINE)[[999, 2999]], rel=1e-3)


def test_the_functional_law_is_found_with_gamma_0() -> None:
    law = LossLaw(1.5, 0.3, 0.45, 40.0, 300.0, 0.6, 0.0)
    runs = [measured(rates, first, 20, law=law) for rates, first in ((TRUNK, 120), (BRANCH, 1205))]
    found = fit_law(runs, "functional", resampled=0).law.as_dict()
    assert found == pytest.approx(law.as_dict(), rel=0.05)


def test_parameters_far_from_the_expected_ones_are_predicted_nearly_as_well() -> None:
    law = LossLaw(L0=1.5, A=0.3, alpha=0.45, B=40.0, C=20.0, beta=0.4, gamma=0.4)
    runs = [measured(rates, first, 20, law=law) for rates, first in ((TRUNK, 120), (BRANCH, 1205))]
    points = np.array([500, 1500, 2900])
    found = fit_law(runs, resampled=0).predict(COSINE, points)
    assert found.loss == pytest.approx(law.loss(COSINE, points), rel=0.003)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_band_holds_the_end_of_a_noisy_unseen_run_and_outliers_do_no_harm(seed: int) -> None:
    trunk, branch = measured(TRUNK, 120, 40, 0.004, seed), measured(BRANCH, 1210, 20, 0.004, seed + 9)
    trunk.values[10] *= 1.5
    found = fit_law([trunk, branch], seed=seed, resampled=10).predict(COSINE, spread(200, 3000, 20))
    real = LAW.loss(COSINE, found.after)
    assert ((found.low <= real) & (real <= found.high)).mean() > 0.9
    assert found.loss[-1] == pytest.approx(real[-1], rel=0.01)
    assert (found.high[-1] - found.low[-1]) / real[-1] < 0.1


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([measured(TRUNK, 120, 20), measured(BRANCH, 1400, 50)], "has 3 losses"),
        ([measured(TRUNK, 120, 200), measured(BRANCH, 1210, 80)], "have 14 losses"),
        ([measured(TRUNK, 120, 20), measured(TRUNK[:1500], 120, 20)], "never falls"),
    ],
)
def test_what_cannot_be_fitted(runs: list[Losses], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_law(runs)


def test_the_best_schedule_never_rises_and_ends_no_higher_than_any_other() -> None:
    rates = COSINE[:1000] / COSINE[:1000].max() * 3e-3
    ranked = rank_schedules(LAW, rates, Horizon(1000))
    best = ranked[0]
    assert best.points
    assert best.rates[:100] == pytest.approx(rates[:100])
    assert best.rates.max() == pytest.approx(3e-3)
    assert (np.diff(best.rates[100:]) <= 1e-15).all()
    assert [one.end for one in ranked] == sorted(one.end for one in ranked)
    assert len(ranked) > 10
    for one in ranked:
        assert one.end == pytest.approx(LAW.loss(RateCurve.of(one.rates), np.array([1000]))[0])
    # A curve that is a little off in one place is not better: the search ended in a minimum.
    for place in (300, 600, 850):
        other = best.rates.copy()
        other[place : place + 60] *= 0.9
        assert LAW.loss(other, np.array([1000]))[0] > best.end

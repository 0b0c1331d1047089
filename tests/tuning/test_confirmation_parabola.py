from __future__ import annotations

import math

import numpy as np
import pytest

from lrflow.tuning.confirmation import fit_parabola


def bowl(position: float) -> float:
    return 1.0 + 0.3 * (position - 0.1) ** 2


def test_fits_a_parabola_exactly() -> None:
    minimum = fit_parabola({position: bowl(position) for position in (-0.5, 0.0, 0.5)})
    assert minimum.best == 0.0
    assert minimum.at == pytest.approx(0.1)
    assert minimum.parabola == pytest.approx((0.3, -0.06, 1.003))
    assert minimum.bracketed == (True, True)


def test_close_positions_do_not_bound_the_interval() -> None:
    positions = np.linspace(-0.6, 0.6, 41)
    noise = np.random.default_rng(0).normal(0, 0.01, len(positions))
    minimum = fit_parabola({p: bowl(p) + off for p, off in zip(positions, noise, strict=True)})
    assert minimum.at == pytest.approx(0.1, abs=0.06)
    assert minimum.interval[0] < minimum.at - 0.1
    assert minimum.interval[1] > minimum.at + 0.1


def test_known_noise_widens_the_interval() -> None:
    losses = {position: bowl(position) for position in (-0.5, -0.25, 0.0, 0.25, 0.5)}
    narrow, wide = fit_parabola(losses), fit_parabola(losses, noise=0.01)
    assert narrow.at == pytest.approx(wide.at)
    assert wide.interval[1] - wide.interval[0] > narrow.interval[1] - narrow.interval[0]


def test_the_interval_ends_before_a_divergence() -> None:
    minimum = fit_parabola({-0.5: 1.2, -0.25: 1.1, 0.0: 1.0, 0.25: math.inf})
    assert minimum.at == minimum.interval[1] == 0.0
    assert minimum.bracketed == (True, True)


def test_two_losses_are_too_few_for_a_parabola() -> None:
    minimum = fit_parabola({0.0: 1.0, 0.5: 2.0})
    assert (minimum.at, minimum.interval, minimum.parabola) == (0.0, (0.0, 0.5), None)
    assert minimum.bracketed == (False, True)


def test_raises_if_every_run_diverged() -> None:
    with pytest.raises(ValueError, match="every run diverged"):
        fit_parabola({0.0: math.inf})

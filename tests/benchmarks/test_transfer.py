"""The exponent of the best LR over the length of a run, on losses whose exponent is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.transfer import CHARLM_RATES, RATES, Measured, kept


@pytest.mark.parametrize("rates", [RATES, CHARLM_RATES], ids=["digits", "charlm"])
@pytest.mark.parametrize("power", [0.0, -0.32])
def test_the_exponent_of_a_power_law(rates: np.ndarray, power: float) -> None:
    lengths, seeds = [50, 100, 200, 400], 3
    middle = np.log2(rates).mean() + power * np.log2(np.array(lengths) / 150)
    scatter = np.linspace(-0.1, 0.1, seeds)
    away = np.log2(rates) - middle[:, None, None] - scatter[:, None]
    found = Measured("made", "loss", lengths, rates, np.exp(0.1 * away**2))
    slope, low, high = found.exponent()
    assert slope == pytest.approx(power, abs=1e-6)
    assert low <= slope + 1e-9
    assert high >= slope - 1e-9
    rows = found.rows((0, 0.32))
    assert [row["steps"] for row in rows] == lengths
    scaled = "0.32" if power else "0"
    assert [row[scaled] for row in rows] == pytest.approx([row["loss"] for row in rows], rel=1e-3)
    assert rows[-1]["0" if power else "0.32"] > 1.01 * rows[-1]["loss"]


def test_what_was_kept_is_complete() -> None:
    for measured in kept():
        assert measured.losses.shape[0] == len(measured.lengths)
        assert measured.losses.shape[2] == len(measured.rates)
        assert np.isfinite(measured.losses).all()

"""The record of a range test: written, read back and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lrflow.tuning.confirmation import Confirmation
from lrflow.tuning.find_record import RangeTest, Record, plot_range_test
from lrflow.tuning.suggestion import suggest_lr

RATES = np.geomspace(1e-6, 10, 80)
SHORT = Confirmation(0.02, (0.01, 0.03), ((0.01, 1.0), (0.02, 0.5), (0.04, np.inf)), ("one beyond it may be better",))


def record(sign: int = 1) -> Record:
    position = np.log10(RATES)
    curve = 2.3 / (1 + np.exp(4 * (position + 3))) + np.exp(6 * (position + 0.5))
    losses = sign * (curve + np.random.default_rng(0).normal(scale=0.02, size=(3, 80)))
    losses[:, 72:] = np.nan
    suggestion = suggest_lr(RATES, losses, more_is_better=sign < 0)
    return Record(RangeTest(RATES, losses, 5), suggestion, "val/loss", "min" if sign > 0 else "max", 0.1)


@pytest.mark.parametrize("confirmed", [None, SHORT])
def test_round_trip_of_the_record(tmp_path: Path, confirmed: Confirmation | None) -> None:
    written = replace(record(), confirmed=confirmed, short_steps=30 if confirmed else 0)
    written.write(tmp_path)
    again = Record.read(tmp_path)
    assert replace(again, test=written.test) == written
    np.testing.assert_array_equal(again.test.losses, written.test.losses)
    assert again.steps == 3 * 72 * 5 + written.short_steps
    assert again.answer == (confirmed or written.suggestion)


@pytest.mark.usefixtures("rendered")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_plot_cuts_off_the_divergence(tmp_path: Path, sign: int) -> None:
    drawn = record(sign)
    low, high = drawn.span()
    rates, values = drawn.mean()
    assert low < min(sign * 0.0, sign * 2.3)
    assert high > max(sign * 0.0, sign * 2.3)
    assert high - low < 5 < np.ptp(values)
    assert len(rates) == 72
    assert plot_range_test(replace(drawn, confirmed=SHORT), tmp_path / "find.png").stat().st_size > 10_000

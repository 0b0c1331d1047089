"""The plan of a sweep, its end, its CSV file, and its readings of the training loss."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from lrflow.layers import Rule, resolve
from lrflow.schedules import Cosine, Schedule
from lrflow.training import Block
from lrflow.tuning.find_record import RangeTest
from lrflow.tuning.range_test import CHECK_EVERY, RangeSweep, _TrainingLossReader, sweep_plan


def test_groups_rise_by_equal_factors_at_constant_ratios() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    rules = [
        Rule("last", match="2.*", lr="10x", schedule=Schedule(Cosine())),
        Rule("first", match="0.*", lr=1e-5),
        Rule("late", match="*", unfreeze="50%"),
    ]
    plan = sweep_plan(resolve(network, rules, lr=1e-3), peak=1e-3, low=1e-6, high=1.0, steps=101)
    rates = plan.lr(np.arange(101))
    np.testing.assert_allclose(rates[:, 2], np.geomspace(1e-6, 1.0, 101), rtol=1e-9)
    np.testing.assert_allclose(rates[:, 0] / rates[:, 2], 10.0)
    np.testing.assert_allclose(rates[:, 1] / rates[:, 2], 0.01)


@pytest.mark.parametrize("every", [1, 4])
def test_the_lr_is_constant_between_readings(every: int) -> None:
    groups = resolve(nn.Linear(3, 4), [Rule("all", match="*")], lr=0.1)
    plan = sweep_plan(groups, peak=0.1, low=1e-6, high=1.0, steps=40 * every, every=every)
    rates = plan.lr(np.arange(40 * every))[:, 0]
    np.testing.assert_allclose(rates, np.repeat(np.geomspace(1e-6, 1.0, 40), every), rtol=1e-9)


@pytest.mark.parametrize("sizes", [[200], [1] * 200, [7] * 29, [13, 1, 50, 3, 100, 33]])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_end_of_a_sweep_does_not_depend_on_the_chunks(sizes: list[int], sign: int) -> None:
    rates = np.geomspace(1e-6, 10, 200)
    position = np.log10(rates)
    losses = sign * (2 / (1 + np.exp(4 * (position + 3))) + np.exp(6 * (position + 0.5)))
    sweep, first, ended = RangeSweep(rates, sign), 0, False
    for size in sizes:
        ended = sweep.add(losses[first : first + size].tolist())
        first += size
    assert ended
    known = np.isfinite(sweep.readings)
    count = int(known.sum())
    assert count == 170
    assert count % CHECK_EVERY == 0
    assert known[:count].all()
    np.testing.assert_array_equal(sweep.readings[:count], losses[:count])


@pytest.mark.parametrize("size", [1, 7, 50])
def test_a_sweep_of_nan_ends_at_the_first_check(size: int) -> None:
    sweep = RangeSweep(np.geomspace(1e-6, 10, 50))
    ended = [sweep.add([np.nan] * size) for _ in range(50 // size)]
    assert ended.index(True) == -(-CHECK_EVERY // size) - 1
    assert ended[-1]
    assert not np.isfinite(sweep.readings).any()


def test_a_falling_sweep_does_not_end_early() -> None:
    sweep = RangeSweep(np.geomspace(1e-6, 10, 50))
    losses = np.linspace(3.0, 1.0, 50)
    assert not any(sweep.add([loss]) for loss in losses.tolist())
    np.testing.assert_array_equal(sweep.readings, losses)


def test_a_constant_sweep_does_not_end_early() -> None:
    sweep = RangeSweep(np.geomspace(1e-6, 10, 50))
    assert not sweep.add([-7.3] * 50)
    assert (sweep.readings == -7.3).all()


def test_round_trip_of_the_csv(tmp_path: Path) -> None:
    test = RangeTest(np.array([0.1, 1.0]), np.array([[2.0, 1.0], [2.5, np.nan]]), every=5)
    assert test.steps == 15
    path = test.write(tmp_path / "find.csv")
    assert path.read_text().splitlines() == ["lr,loss_0,loss_1", "0.1,2.0,2.5", "1.0,1.0,"]
    again = RangeTest.read(path, every=5)
    np.testing.assert_array_equal(again.rates, test.rates)
    np.testing.assert_array_equal(again.losses, test.losses)


def _block(first: int, losses: list[float | None]) -> Block:
    loss, nothing = np.array([0.0 if one is None else one for one in losses]), np.zeros((len(losses), 1))
    return Block(first, loss, loss, loss, nothing, nothing, skipped=np.array([one is None for one in losses]))


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_skipped_step_repeats_the_loss_before_it(cut: int) -> None:
    """In whichever block it is; skipped steps at the start have the first loss."""
    losses = [None, None, 3.0, None, 2.0, None, None, 1.0]
    sweep, trainer = RangeSweep(np.geomspace(1e-3, 1.0, 8)), SimpleNamespace(stop=lambda why: None)
    monitor: Any = _TrainingLossReader(sweep, 1)
    monitor.on_block(trainer, _block(0, losses[:cut]))
    monitor.on_block(trainer, _block(cut, losses[cut:]))
    assert sweep.readings.tolist() == [3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 1.0]

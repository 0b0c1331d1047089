"""A sweep's plan, and where it ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from lrflow.layers import Rule, resolve
from lrflow.schedules import Cosine, Schedule
from lrflow.training import Block
from lrflow.tuning.range_test import LOOK, RangeTest, Sweep, sweep_plan


def test_every_group_rises_by_equal_factors_and_keeps_its_ratio() -> None:
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


def block(losses: np.ndarray, first: int) -> Block:
    nothing = np.zeros(len(losses))
    return Block(first, losses, nothing, nothing, nothing[:, None], nothing[:, None])


@pytest.mark.parametrize("sizes", [[200], [1] * 200, [7] * 29, [13, 1, 50, 3, 100, 33]])
def test_where_a_sweep_ends_does_not_depend_on_when_it_is_read(sizes: list[int]) -> None:
    rates = np.geomspace(1e-6, 10, 200)
    position = np.log10(rates)
    losses = 2 / (1 + np.exp(4 * (position + 3))) + np.exp(6 * (position + 0.5))
    sweep, trainer, first = Sweep(rates), SimpleNamespace(should_stop=False), 0
    for size in sizes:
        part = losses[first : first + size]
        sweep._listen(trainer, block(part, first))  # type: ignore[arg-type]
        first += size
    assert trainer.should_stop
    known = np.isfinite(sweep.losses)
    count = int(known.sum())
    assert count == 170
    assert count % LOOK == 0
    assert known[:count].all()
    np.testing.assert_array_equal(sweep.losses[:count], losses[:count])


def test_a_quiet_sweep_goes_to_the_end() -> None:
    rates = np.geomspace(1e-6, 10, 50)
    sweep, trainer = Sweep(rates), SimpleNamespace(should_stop=False)
    sweep._listen(trainer, block(np.ones(50), 0))  # type: ignore[arg-type]
    assert not trainer.should_stop
    assert np.isfinite(sweep.losses).all()


def test_what_is_written(tmp_path: Path) -> None:
    test = RangeTest(np.array([0.1, 1.0]), np.array([[2.0, 1.0], [2.5, np.nan]]))
    assert test.steps == 3
    lines = test.write(tmp_path / "find.csv").read_text().splitlines()
    assert lines == ["lr,loss_0,loss_1", "0.1,2.0,2.5", "1.0,1.0,"]

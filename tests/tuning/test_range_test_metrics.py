"""What a sweep reads of the training loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lrflow.training import Block
from lrflow.tuning.range_test import RangeSweep, _MeanLosses


def _block(first: int, losses: list[float | None]) -> Block:
    loss, nothing = np.array([0.0 if one is None else one for one in losses]), np.zeros((len(losses), 1))
    return Block(first, loss, loss, loss, nothing, nothing, skipped=np.array([one is None for one in losses]))


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_skipped_step_is_read_as_the_one_before_it(cut: int) -> None:
    """Whatever block it is in; the first ones as the first that has a loss."""
    losses = [None, None, 3.0, None, 2.0, None, None, 1.0]
    sweep, trainer = RangeSweep(np.geomspace(1e-3, 1.0, 8)), SimpleNamespace(stop=lambda why: None)
    monitor: Any = _MeanLosses(sweep, 1)
    monitor.on_block(trainer, _block(0, losses[:cut]))
    monitor.on_block(trainer, _block(cut, losses[cut:]))
    assert sweep.readings.tolist() == [3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 1.0]

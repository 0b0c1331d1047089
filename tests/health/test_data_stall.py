"""Steps that wait for data are reported, and end no run."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.health import DataStall, Facts, History
from lrflow.training import Block


@pytest.mark.parametrize(
    ("seconds", "waited", "found"),
    [
        (np.full(100, 0.5), np.full(100, 0.3), True),
        (np.full(100, 0.5), np.full(100, 0.1), False),
        (np.full(100, 0.01), np.full(100, 0.009), False),
        (np.full(40, 5.0), np.full(40, 4.0), False),
        (np.r_[np.full(99, 0.5), 500.0], np.r_[np.zeros(99), 499.0], False),
        (np.full(100, 0.5), None, False),
    ],
    ids=["waits", "waits a little", "a short run", "few steps", "one long wait", "not measured"],
)
def test_judge(seconds: np.ndarray, waited: np.ndarray | None, found: bool) -> None:
    history, ones = History(Facts(1000)), np.ones(len(seconds))
    rates = ones[:, None]
    history.extend(Block(0, ones, ones, seconds, rates, rates, data_seconds=waited))
    assert (DataStall().judge(history) is not None) == found


def test_it_never_acts() -> None:
    assert DataStall(action="stop").response("stop") == "watch"

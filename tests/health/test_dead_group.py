"""A group that does not move, or moves too far, is told apart from one whose LR the plan makes low."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.health import DeadGroup, Facts, History
from lrflow.training import Block
from lrflow.training.group_norms import GroupNorms

USUAL = [1e-3, 2e-3, 5e-4]


@pytest.mark.parametrize(
    ("updates", "rates", "weights", "message"),
    [
        ([1e-12, 2e-3, 5e-4], [1, 1, 1], [1, 1, 1], "the group a does not move"),
        ([0, 2e-3, 5e-4], [1, 1, 1], [1, 1, 1], "the group a does not move"),
        ([0, 2e-3, 5e-4], [1e-4, 1, 1], [1, 1, 1], "the group a does not move"),
        ([1e-3, 2e-3, 0.3], [1, 1, 1], [1, 1, 1], "the group c changes by 30%"),
        (USUAL, [1, 1, 1], [1, 1, 1], None),
        ([0, 2e-3, 5e-4], [0, 1, 1], [1, 1, 1], None),
        ([1e-10, 2e-3, 5e-4], [1e-8, 1, 1], [1, 1, 1], None),
        ([1e-3, 2e-3, 0.3], [1e-3, 1e-3, 1], [1, 1, 1], None),
        ([1e-5, 1e-5, 0.02], [1, 1, 1], [1, 1, 1], None),
        ([1e-3, 2e-3, 0.3], [1, 1, 1], [1, 1, 0], None),
        ([0, 0, 0], [1, 1, 1], [1, 1, 1], None),
    ],
    ids=[
        "dead", "no update at all", "dead at a low LR", "too far", "healthy", "LR of 0", "a tiny LR", "a high LR",
        "far but small", "weights of zero", "nothing moves",
    ],
)  # fmt: skip
def test_judge(updates: list[float], rates: list[float], weights: list[float], message: str | None) -> None:
    history = History(Facts(100, groups=("a", "b", "c")))
    steps, rows = np.ones(100), np.arange(0, 100, 20)
    norms = GroupNorms(rows, *(np.tile(one, (len(rows), 1)) for one in (updates, weights, updates)), np.ones(len(rows)))
    lr = np.tile(np.array(rates, dtype=float), (100, 1))
    history.extend(Block(0, steps, steps, steps, lr, lr, norms=norms))
    detector = DeadGroup()
    detector.kind = "dead_group"
    finding = detector.judge(history)
    assert (finding is None) == (message is None)
    if finding and message:
        assert finding.message.startswith(message)


def test_a_group_that_was_just_unfrozen_is_not_judged() -> None:
    history = History(Facts(100, groups=("a", "b")))
    steps, rows = np.ones(100), np.arange(0, 100, 10)
    lr = np.ones((100, 2))
    lr[:75, 0] = 0
    moves = np.tile([0.0, 1e-3], (len(rows), 1))
    ones = np.ones_like(moves)
    history.extend(Block(0, steps, steps, steps, lr, lr, norms=GroupNorms(rows, ones, ones, moves, np.ones(len(rows)))))
    assert DeadGroup().judge(history) is None

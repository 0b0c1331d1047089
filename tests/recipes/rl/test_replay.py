"""The replay buffer, against a deque."""

from __future__ import annotations

import io
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrflow.errors import ConfigError

gym = pytest.importorskip("gymnasium", reason="the extra rl is not installed")
from lrflow.recipes.rl.replay import ReplayBuffer, Transitions  # noqa: E402

SEEN = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
DISCRETE = gym.spaces.Discrete(1000)


def steps(first: int, count: int) -> tuple[np.ndarray, ...]:
    """Transitions first, first + 1, ... whose every field tells which one it is."""
    number = np.arange(first, first + count)
    return (np.stack([number, -number], 1), number, number.astype(float), np.stack([number + 1, number], 1), number % 2)


def filled(capacity: int, *counts: int) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, SEEN, DISCRETE)
    for index, count in enumerate(counts):
        buffer.add(*steps(sum(counts[:index]), count))
    return buffer


@given(st.integers(1, 12).flatmap(lambda size: st.tuples(st.just(size), st.lists(st.integers(1, size), max_size=9))))
def test_it_holds_the_latest_transitions_whole(case: tuple[int, list[int]]) -> None:
    capacity, counts = case
    expected: deque[int] = deque(range(sum(counts)), maxlen=capacity)
    buffer = filled(capacity, *counts)
    assert len(buffer) == len(expected)
    if expected:
        batch = buffer.sample(500, torch.Generator().manual_seed(0))
        assert set(batch.actions.tolist()) <= set(expected)
        same = Transitions(*(torch.as_tensor(field) for field in steps(0, sum(counts))))
        for drawn, all_of_them in zip(batch, same, strict=True):
            torch.testing.assert_close(drawn, all_of_them[batch.actions].to(drawn.dtype), rtol=0, atol=0)


def test_it_samples_uniformly() -> None:
    buffer = filled(50, 50, 20)  # 20 to 69 are left
    drawn = buffer.sample(100_000, torch.Generator().manual_seed(1)).actions - 20
    counts = torch.bincount(drawn, minlength=50).double()
    assert len(counts) == 50
    assert ((counts - 2000) ** 2 / 2000).sum() < 85.4  # chi-squared, 49 degrees of freedom: 1 in 1,000 is above


def test_types_are_those_that_a_loss_takes() -> None:
    box = gym.spaces.Box(-2.0, 2.0, (3,), np.float64)
    buffer = ReplayBuffer(4, SEEN, box)
    buffer.add(np.zeros((1, 2)), np.ones((1, 3)), np.zeros(1), np.zeros((1, 2)), np.array([True]))
    batch = buffer.sample(2, torch.Generator())
    assert [field.dtype for field in batch] == [torch.float32] * 5
    assert [list(field.shape) for field in batch] == [[2, 2], [2, 3], [2], [2, 2], [2]]
    assert batch.terminated.tolist() == [1.0, 1.0]
    assert filled(4, 2).sample(2, torch.Generator()).actions.dtype == torch.int64


@pytest.mark.parametrize("counts", [(3,), (10, 10, 5)], ids=["part", "wrapped"])
def test_its_state_is_the_whole_of_it(counts: tuple[int, ...]) -> None:
    buffer, file = filled(10, *counts), io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    other = ReplayBuffer(10, SEEN, DISCRETE)
    other.load_state_dict(torch.load(file, weights_only=True))
    for one in (buffer, other):
        one.add(*steps(100, 4))
    pairs = zip(*(one.sample(64, torch.Generator().manual_seed(2)) for one in (buffer, other)), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_what_is_empty_takes_no_room_in_a_checkpoint() -> None:
    file = io.BytesIO()
    torch.save(filled(1_000_000, 10).state_dict(), file)
    assert len(file.getvalue()) < 10_000


def test_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.buffer_size = 20.*10 transitions"):
        ReplayBuffer(20, SEEN, DISCRETE).load_state_dict(filled(10, 3).state_dict())

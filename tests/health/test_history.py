"""The history of a run does not depend on how its steps are divided into blocks, and survives a checkpoint."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.health.diverging import Diverging
from lrflow.health.history import BINS, FIRST, MEASURED, WINDOW, Facts, History
from lrflow.training import Block
from lrflow.training.group_norms import GroupNorms

STEPS = 1500


def recorded(steps: int = STEPS, every: int = 7) -> Block:
    """A run whose norms are measured at two of `every` steps; steps 40 to 42 are not finite, step 50 is skipped."""
    numbers = np.random.default_rng(0)
    rows = np.array([step for step in range(steps) if step % every < 2])
    loss = np.exp(-np.arange(steps) / 400) + 0.01 * numbers.standard_normal(steps)
    loss[40:43] = np.nan
    rates = np.outer(np.linspace(1, 0, steps), [0.1, 0.01])
    norms = GroupNorms(
        rows,
        *(numbers.random((len(rows), 2)) for _ in range(3)),
        np.where(rows % every, numbers.random(len(rows)), np.nan),
    )
    skipped = np.arange(steps) == 50
    return Block(0, loss, loss**2, np.full(steps, 0.01), rates, rates, norms=norms, skipped=skipped)


def plain(value: Any) -> Any:
    """The content of a history, with lists in place of arrays."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return np.asarray(value).tolist() if isinstance(value, np.ndarray) else value


def same(one: History, other: History) -> bool:
    return str(plain(one.state_dict())) == str(plain(other.state_dict()))


@given(st.lists(st.integers(1, STEPS - 1), max_size=12))
@settings(max_examples=20, deadline=None)
def test_blocks_may_end_anywhere(edges: list[int]) -> None:
    whole, divided = History(Facts(STEPS, groups=("a", "b"))), History(Facts(STEPS, groups=("a", "b")))
    whole.extend(recorded())
    for start, stop in pairwise([0, *sorted({*edges}), STEPS]):
        if start % 2:
            divided.extend(recorded(), start, stop)
        else:
            divided.extend(recorded().part(start, stop))
    assert same(whole, divided)


def test_a_part_of_a_block_has_the_signals_of_its_steps_alone() -> None:
    steps = np.arange(9.0)
    block = Block(20, *[steps] * 3, *[steps[:, None]] * 2, data_seconds=steps, clip=steps, settings={"momentum": steps})
    part = block.part(22, 25)
    arrays = {name: value for name, value in vars(part).items() if isinstance(value, np.ndarray)}
    arrays |= part.settings
    assert {name: len(value) for name, value in arrays.items()} == dict.fromkeys(arrays, 3)
    assert part.clip is not None
    np.testing.assert_array_equal(part.clip, [2, 3, 4])


def test_a_run_whose_first_steps_were_not_watched_has_no_first_losses() -> None:
    history = History(Facts(STEPS, groups=("a", "b")))
    history.extend(recorded().part(700, 900))
    assert not len(history.first)
    assert Diverging().judge(history) is None


def test_the_history_stays_small_and_keeps_what_matters() -> None:
    history, run = History(Facts(STEPS, groups=("a", "b"))), recorded()
    history.extend(run)
    assert history.step == STEPS
    np.testing.assert_array_equal(history.first, np.where(run.skipped, np.nan, run.loss)[:FIRST])
    np.testing.assert_array_equal(history.recent["loss"], run.loss[-WINDOW:])
    np.testing.assert_array_equal(history.recent["lr"], run.actual[-WINDOW:, 0])
    assert history.recent_steps[0] == STEPS - WINDOW
    assert len(history.bins["loss"].count) == BINS
    assert len(history.bins["loss"].means) <= BINS
    assert history.not_finite == 3
    assert len(history.cosine) == MEASURED
    assert history.update_ratio.shape == (MEASURED, 2)
    assert run.norms is not None
    np.testing.assert_array_equal(history.rates, run.actual[run.norms.rows][-MEASURED:])
    at = 5 * history.bins["loss"].width
    expected = run.loss[at : at + history.bins["loss"].width].mean()
    assert history.bins["loss"].means[5] == expected


def test_a_checkpoint_restores_the_history() -> None:
    before, after = History(Facts(STEPS, groups=("a", "b"))), History(Facts(STEPS, groups=("a", "b")))
    before.extend(recorded())
    before.add_validation(700, {"val/loss": 0.5})
    before.add_validation(1400, {"val/loss": 0.4, "val/accuracy": 0.9})
    before.add_validation(1400, {"val/loss": 0.3})
    before.add_sharpness(100, 20.0, 0.9)
    buffer = io.BytesIO()
    torch.save(before.state_dict(), buffer)
    buffer.seek(0)
    after.load_state_dict(torch.load(buffer, weights_only=False))
    assert same(before, after)
    steps, values = after.series("val/loss")
    assert (steps.tolist(), values.tolist()) == ([700, 1400], [0.5, 0.3])
    assert after.series("val/f1")[0].size == 0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_correlation_of_gradients_does_not_depend_on_the_momentum(momentum: float) -> None:
    """Gradients with a signal to noise ratio of 0.5 are correlated by a third under any momentum."""
    numbers, steps, size = np.random.default_rng(0), 200, 2000
    signal, update, cosines = np.sqrt(0.5) * np.ones(size), np.zeros(size), []
    for _ in range(steps):
        before, update = update, momentum * update + signal + numbers.standard_normal(size)
        cosines.append(before @ update / max(np.linalg.norm(before) * np.linalg.norm(update), 1e-9))
    history = History(Facts(steps, momentum=momentum))
    history.cosine = np.array(cosines[50:])
    assert abs(np.mean(history.correlation) - 1 / 3) < 0.02

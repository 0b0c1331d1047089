"""`data.sampler`: how often examples are drawn, shares of devices, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from lrflow.config import compose
from lrflow.data import ShardedBatches, ordered
from lrflow.data.order import Draws
from lrflow.data.sampling import sampled, targets_of
from lrflow.errors import ConfigError

RARE = torch.tensor([0] * 90 + [1] * 7 + [2] * 2)


def drawn(loader: Any) -> list[int]:
    return [row for batch in loader for row in batch[0].tolist()]


def test_an_epoch_has_all_classes_equally_often_and_their_examples_too() -> None:
    loader = sampled(DataLoader(TensorDataset(torch.arange(99), RARE), 10, shuffle=True), "balanced")
    epochs = [drawn(ordered(loader, 3, epoch=epoch)) for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert epochs[0] == drawn(ordered(loader, 3))
    for rows in epochs:
        assert len(rows) == 99
        assert Counter(RARE[rows].tolist()) == {0: 33, 1: 33, 2: 33}
        counts = Counter(rows)
        assert {counts[row] for row in range(90)} == {0, 1}
        assert {counts[row] for row in range(90, 97)} == {4, 5}
        assert {counts[row] for row in (97, 98)} == {16, 17}


@given(st.lists(st.just(0.0) | st.floats(1e-3, 1e6), min_size=1, max_size=40).filter(any), st.integers(0, 9))
def test_every_example_is_drawn_in_proportion_to_its_weight_rounded(weights: list[float], epoch: int) -> None:
    given = np.array(weights)
    order = Draws(given).order(5, epoch)
    assert len(order) == len(weights)
    expected = given * (len(weights) / given.sum())
    counts = np.bincount(order, minlength=len(weights))
    assert (np.abs(counts - expected) < 1 + 1e-6).all()
    assert not counts[given == 0].any()


def test_draws_have_the_mean_of_weighted_ones_and_never_change() -> None:
    weights = np.array([3.0, 1.0, 0.5, 1.5, 0.2])
    total = sum(np.bincount(Draws(weights).order(0, epoch), minlength=5) for epoch in range(4000))
    torch.manual_seed(0)
    independent = np.bincount(list(WeightedRandomSampler(weights.tolist(), 20000)), minlength=5)
    assert total / 20000 == pytest.approx(weights / weights.sum(), abs=0.01)
    assert total / 20000 == pytest.approx(independent / 20000, abs=0.02)
    assert Draws(weights).order(0, 0).tolist() == [3, 0, 3, 0, 2]  # runs are resumed under other versions of NumPy


@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 4), st.integers(0, 2))
def test_devices_share_the_draws_and_a_resumed_pass_continues(count: int, size: int, world: int, epoch: int) -> None:
    draws = Draws(np.arange(1.0, count + 1))

    def shards(**other: Any) -> list[ShardedBatches]:
        return [
            ShardedBatches(count, size, shuffle=True, seed=1, rank=rank, world=world, epoch=epoch, draws=draws, **other)
            for rank in range(world)
        ]

    whole, whole_epoch = [list(one) for one in shards()], draws.order(1, epoch)
    assert len({len(batches) for batches in whole}) == 1
    rows = [np.concatenate(batches) for batches in whole]
    assert np.stack(rows, 1).ravel()[:count].tolist() == whole_epoch.tolist()
    assert [list(one) for one in shards(start=1)] == [batches[1:] for batches in whole]


class Labelled(Dataset[Any]):
    targets = [0, 1, 1]  # noqa: RUF012

    def __len__(self) -> int:
        return 3


def test_targets_are_found_without_loading_examples() -> None:
    pairs = TensorDataset(torch.arange(4), torch.tensor([5, 6, 7, 8]))
    cases: list[tuple[object, list[int] | None]] = [
        (pairs, [5, 6, 7, 8]),
        (Subset(pairs, [2, 0]), [7, 5]),
        (Labelled(), [0, 1, 1]),
        (TensorDataset(torch.arange(4)), None),
        (Subset(TensorDataset(torch.arange(4)), [0]), None),
        ([1, 2], None),
    ]
    for dataset, expected in cases:
        found = targets_of(dataset)
        assert (found if found is None else found.tolist()) == expected


def test_sequential_and_shuffled_replace_the_order_of_a_module() -> None:
    for shuffle in (True, False):
        loader = DataLoader(TensorDataset(torch.arange(20)), 20, shuffle=shuffle)
        assert drawn(ordered(sampled(loader, "sequential"), 1)) == [*range(20)]
        assert drawn(ordered(sampled(loader, "shuffled"), 1)) == drawn(ordered(loader, 1, shuffle=True))


def test_what_cannot_be_drawn_is_refused() -> None:
    numbers = DataLoader(TensorDataset(torch.arange(3), torch.rand(3)), 2)
    own = DataLoader(TensorDataset(torch.arange(3), torch.arange(3)), 2, sampler=WeightedRandomSampler([1.0] * 9, 9))
    cases: list[tuple[Any, str, Any, str]] = [
        (numbers, "balanced", None, "no class numbers"),
        (DataLoader(TensorDataset(torch.arange(3)), 2), "balanced", None, "no attribute `targets`"),
        (numbers, "weighted", None, "data.weight=COLUMN"),
        (numbers, "weighted", [1.0, 2.0], "expected 3 weights"),
        (numbers, "weighted", [1.0, 2.0, -1.0], "at least 0"),
        (numbers, "weighted", [0.0, 0.0, 0.0], "some of them above 0"),
        (own, "balanced", None, "order of its own"),
    ]
    for loader, sampler, weights, message in cases:
        with pytest.raises(ConfigError, match=message):
            sampled(loader, sampler, weights)


def test_settings_that_do_not_fit_the_data_are_reported_first(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,w,y\n" + "".join(f"{i},{i % 3},{i * 1.5}\n" for i in range(60)))
    (tmp_path / "bad.csv").write_text("a,w,y\n" + "".join(f"{i},{i - 1},{i * 1.5}\n" for i in range(60)))
    table = ["data=table", f"data.file={tmp_path}/t.csv", "data.target=y", "model=table", "data.batch_size=8"]
    cases = [
        (["data.sampler=balance"], "did you mean balanced"),
        ([*table, "data.sampler=balanced"], "the targets of the data are numbers"),
        ([*table, "data.sampler=weighted"], "data.weight=COLUMN"),
        ([*table, "data.weight=w"], "data.sampler=weighted draws by it"),
        ([*table, "data.weight=v", "data.sampler=weighted"], "no such column"),
        (
            [*table, f"data.file={tmp_path}/bad.csv", "data.weight=w", "data.sampler=weighted"],
            "line 2: expected a weig",
        ),
        (["data.folds=5", "data.fold=5"], "from 0 to 4"),
        (["data.fold=1"], "add data.folds=5"),
    ]
    for overrides, message in cases:
        with pytest.raises(ConfigError, match=message):
            compose(overrides)
    config = compose([*table, "data.weight=w", "data.sampler=weighted"])
    assert config.data.facts is not None
    assert config.data.facts.shape == [1]

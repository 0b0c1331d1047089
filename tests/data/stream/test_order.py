"""The order of samples in shards: a permutation, near to a sequence, and a function of seed, epoch and devices."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.data.order import ShardedBatches
from lrflow.data.stream.order import block_order


@pytest.mark.parametrize("samples", [1, 7, 100, 1003])
def test_each_sample_is_once_in_a_pass(samples: int) -> None:
    for shards in (1, 3, 57):
        units = np.sort(np.random.RandomState(samples).randint(0, shards, samples))
        for together, block in ((1, 1), (4, 16), (8, 5000)):
            order = block_order(units, together, block)
            for world in (1, 2, 5):
                found = order(3, 1, world)
                assert np.array_equal(np.sort(found), np.arange(samples)), (shards, together, block, world)
                assert np.array_equal(found, order(3, 1, world))


def test_a_pass_reads_a_few_shards_at_once_and_each_of_them_once() -> None:
    units = np.repeat(np.arange(40), 50)
    order = block_order(units, together=4, block=60)
    found = units[order(0, 0, 1)]
    blocks = [set(found[start : start + 200].tolist()) for start in range(0, 2000, 200)]  # four shards have 200 samples
    assert all(len(block) == 4 for block in blocks)
    assert sum(map(len, blocks)) == 40, "no shard is opened twice"
    for rank in range(4):
        assert len({*units[order(0, 0, 4)[rank::4]].tolist()}) == 10, "a device reads only its share of the shards"


def test_the_samples_of_a_block_are_from_all_of_its_shards() -> None:
    """Also where each shard holds one class."""
    units = np.repeat(np.arange(10), 100)
    found = units[block_order(units, together=5, block=50)(0, 0, 1)]
    assert min(len({*found[start : start + 25].tolist()}) for start in range(0, 1000, 25)) >= 4


def test_epochs_and_seeds_differ_and_a_block_of_one_keeps_the_sequence() -> None:
    units = np.repeat(np.arange(6), 20)
    order = block_order(units, 2, 10)
    orders = [order(seed, epoch, 1).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({*map(tuple, orders)}) == 3
    alone = block_order(units, 1, 1)(0, 0, 1).reshape(6, 20)
    assert (np.diff(alone) == 1).all()


def test_a_resumed_pass_goes_on_where_it_was() -> None:
    order = block_order(np.repeat(np.arange(5), 13), 2, 10)
    options = {"shuffle": True, "seed": 4, "world": 3, "rank": 1, "epoch": 2, "order": order}
    whole = [list(batch) for batch in ShardedBatches(65, 4, **options)]  # type: ignore[arg-type]
    assert [list(batch) for batch in ShardedBatches(65, 4, start=3, **options)] == whole[3:]  # type: ignore[arg-type]

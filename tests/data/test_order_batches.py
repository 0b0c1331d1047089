from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, default_collate

from lrflow.data import ordered
from lrflow.data.order import SeededBatch, WholeBatches, collate_whole, fetch_whole


def tensors() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(17, 2, 4, 3, generator=generator)
    return TensorDataset(
        pictures.to(memory_format=torch.channels_last), torch.arange(17), torch.arange(34.0).view(2, 17).T, pictures > 0
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("subset", [False, True])
def test_a_whole_batch_equals_its_collated_examples(workers: int, subset: bool) -> None:
    data: Dataset[Any] = Subset(Subset(tensors(), range(16, 0, -1)), [3, 1, 4, 15, 9, 2, 6]) if subset else tensors()
    plain = DataLoader(data, batch_size=4, num_workers=workers)
    for whole, collated in zip(ordered(plain, seed=0), plain, strict=True):
        assert type(whole) is type(collated)
        for left, right in zip(whole, collated, strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)


def test_a_subclass_is_read_example_by_example() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            return tuple(2 * tensor for tensor in super().__getitem__(index))

    doubled = Doubled(torch.arange(6))
    assert fetch_whole(doubled) is None
    assert fetch_whole(Subset(doubled, [1])) is None
    assert fetch_whole(ConcatDataset([tensors()])) is None
    assert [batch[0].tolist() for batch in ordered(DataLoader(doubled, batch_size=3), seed=0)] == [
        [0, 2, 4],
        [6, 8, 10],
    ]


def test_single_examples_can_still_be_read() -> None:
    data = WholeBatches(torch.arange(6))
    assert len(data) == 6
    assert data[4] == (torch.tensor(4),)
    batch = data.__getitems__([4, 0])
    assert collate_whole(batch) is batch
    assert torch.equal(batch[0], default_collate([data[4], data[0]])[0])


def test_a_batch_reaches_a_worker_with_its_seed() -> None:
    batch = pickle.loads(pickle.dumps(SeededBatch([3, 1], (7, 2, 0, 5))))
    assert batch == [3, 1]
    seeds = [SeededBatch([3, 1], origin).seed for origin in ((7, 2, 0, 5), (7, 2, 0, 6), (7, 2, 1, 5))]
    assert batch.seed == seeds[0]
    assert len({*seeds}) == 3

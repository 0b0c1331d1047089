"""What a loader's workers are handed: batches that seed themselves, and tensors fetched a whole batch at once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset, get_worker_info


class SeededBatch(list[int]):
    """The indices of a batch; a worker process that goes through them first seeds its random numbers.

    A worker's generators are otherwise where its earlier batches have left them, which a resumed run cannot know. So
    whatever a data set draws for a batch, for augmentation say, depends on the run's seed and the batch alone. In the
    main process nothing is seeded: there the generators belong to the run, which saves and restores them.

    Args:
        indices: of the batch's examples.
        seed: 32 bits.
    """

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        if get_worker_info() is not None:
            random.seed(self.seed)
            np.random.seed(self.seed)
            torch.default_generator.manual_seed(self.seed)
        return super().__iter__()

    def __reduce__(self) -> tuple[type[SeededBatch], tuple[list[int], int]]:
        return type(self), (self[:], self.seed)


class WholeBatches(TensorDataset):
    """A `TensorDataset` that a loader asks for a batch once, not once for each example.

    Args:
        *tensors: equally long; example i is row i of each.
    """

    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """A batch as `default_collate` would give it: one tensor [len(indices), ...] for each of the tensors."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return [tensor.index_select(0, rows.to(tensor.device)) for tensor in self.tensors]


def fetch_whole(dataset: Dataset[Any]) -> Dataset[Any] | None:
    """A data set of the same examples that hands out collated batches, or None where that cannot be had."""
    if type(dataset) in (TensorDataset, WholeBatches):
        return WholeBatches(*dataset.tensors)  # type: ignore[attr-defined]
    if type(dataset) is Subset and (inner := fetch_whole(dataset.dataset)) is not None:
        return Subset(inner, dataset.indices)
    return None


def collate_whole(batch: list[torch.Tensor]) -> list[torch.Tensor]:
    """The `collate_fn` of batches that come whole: nothing is left to do."""
    return batch

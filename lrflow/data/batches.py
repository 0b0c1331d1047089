"""Whole batches out of a tensor data set at once, instead of example by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset


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

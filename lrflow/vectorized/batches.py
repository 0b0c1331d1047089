"""The batches of a population: every member's own, in its own order, from one data set in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lrflow.data.batches import WholeBatches
from lrflow.data.order import ShardedBatches
from lrflow.vectorized.population import UnfitError


class StackedBatches:
    """The training batches of all members, in the order that each would see alone.

    Args:
        loaders: one a member, as `lrflow.data.ordered` returns them, over the same data.
        device: where the data are kept and the batches made.

    Raises:
        UnfitError: a loader whose batches are not those of tensors in memory, in lrflow's order; other data in each.
    """

    def __init__(self, loaders: Sequence[DataLoader[Any]], device: torch.device) -> None:
        self._orders = [_order(loader) for loader in loaders]
        first, *others = {id(loader.dataset): _tensors(loader.dataset) for loader in loaders}.values()
        if not all(_equal(first, other) for other in others):
            raise UnfitError("their training data differ")
        self._tensors = [tensor.to(device) for tensor in first]
        self._device = device

    def epoch(self, number: int) -> Iterator[list[Tensor]]:
        """The batches of an epoch, counted from 0: of each, tensors [members, batch, ...]."""
        for order in self._orders:
            order.set_epoch(number)
        rows = torch.from_numpy(np.stack([order.shard() for order in self._orders])).to(self._device)
        size = self._orders[0].batch_size or 1
        for batch in range(len(self._orders[0])):
            chosen = rows[:, batch * size : (batch + 1) * size]
            flat = chosen.reshape(-1)
            yield [tensor.index_select(0, flat).unflatten(0, chosen.shape) for tensor in self._tensors]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these members alone from the next epoch on."""
        self._orders = [self._orders[row] for row in rows]


def _order(loader: object) -> ShardedBatches:
    order = getattr(loader, "batch_sampler", None)
    if not isinstance(order, ShardedBatches):
        raise UnfitError("the training data bring an order of their own")
    return order


def _tensors(dataset: object) -> Sequence[Tensor]:
    if isinstance(dataset, WholeBatches):
        return dataset.tensors
    if isinstance(dataset, Subset):
        rows = torch.as_tensor(dataset.indices)
        return [tensor[rows] for tensor in _tensors(dataset.dataset)]
    raise UnfitError("the training data are not a TensorDataset in memory")


def _equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two data sets are the same; of one and the same tensor, that is known without a look."""
    return len(one) == len(other) and all(
        mine is its or (mine.dtype == its.dtype and torch.equal(mine, its))
        for mine, its in zip(one, other, strict=True)
    )

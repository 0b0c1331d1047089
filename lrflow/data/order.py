"""The order of the data as a pure function of the seed, the epoch and the device.

A `RandomSampler` draws its order from a global generator, so where a run stands in its data depends on everything
that has drawn from that generator before. Here nothing is drawn: batch 17 of epoch 3 is the same batch whether the
run has walked there or was resumed there, and whatever the model, the workers or validation have done meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.sampler import BatchSampler

from lrflow.data.batches import collate_whole, fetch_whole


class ShardedBatches(Sampler[Any]):
    """Batches of indices for one of several devices: a batch sampler without hidden state.

    Every epoch has one order of all examples; device `rank` takes every `world`-th of them. All devices get the same
    number of batches, since a device with one batch more would wait for the others for ever.

    Args:
        examples: how many examples the data set has.
        batch_size: examples a batch on this device; None yields single indices, for a `DataLoader` whose
            `batch_size` is None.
        shuffle: whether each epoch has an order of its own, or all are in the data set's order.
        seed: of the order; any integer.
        rank: this device, from 0.
        world: how many devices share an epoch.
        drop_last: leave out the last batch where it is smaller than `batch_size`.
        pad: repeat an epoch's first examples at its end until the devices' shares are equal, as
            `DistributedSampler` does; otherwise no example is seen twice and a share may be one example shorter.
        epoch: the epoch that the first pass is in, from 0.
        start: batches that passes through that epoch leave out, for a run that is resumed in its middle.
            Other epochs are whole, and `len()` always counts a whole one.
        generator: the loader's own generator. It is seeded anew for every pass, so that the seeds of worker
            processes too are a function of (seed, epoch, rank).
    """

    def __init__(
        self,
        examples: int,
        batch_size: int | None,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        pad: bool = True,
        epoch: int = 0,
        start: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} devices")
        self.examples = examples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world = world
        self.drop_last = drop_last
        self.pad = pad
        self.epoch = epoch
        self.generator = generator
        self._resumed = (epoch, start)

    @property
    def start(self) -> int:
        """How many batches the next pass leaves out: those a resumed run has behind it, in its first epoch only."""
        epoch, start = self._resumed
        return start if self.epoch == epoch else 0

    @property
    def sampler(self) -> ShardedBatches:
        """Itself: Lightning looks for `set_epoch` on a batch sampler's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        longest = -(-self.examples // self.world)
        if self.batch_size is None:
            return longest
        return longest // self.batch_size if self.drop_last else -(-longest // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator function: a loader draws its base seed right after it calls this.
        if self.generator is not None:
            self.generator.manual_seed(_entropy(self.seed, self.epoch, self.rank)[0])
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        start, shard = self.start, self.shard()
        if self.batch_size is None:
            yield from shard[start:].tolist()
            return
        stops = self._stops(len(shard))
        for number in range(start, len(self)):
            yield shard[stops[number] : stops[number + 1]].tolist()

    def _stops(self, size: int) -> list[int]:
        """Where this share's batches begin and end: a share too short for the last batch gives it one example."""
        count = len(self)
        stops = [min(number * self.batch_size, size) for number in range(count + 1)]  # type: ignore[operator]
        if count > 1 and stops[-2] == size:
            stops[-2] -= 1
        return stops

    def shard(self) -> np.ndarray:
        """The indices that this device sees in the present epoch, in order; int64, [examples of this device]."""
        order = epoch_order(self.examples, self.seed, self.epoch) if self.shuffle else np.arange(self.examples)
        if self.pad and self.examples:
            order = np.resize(order, -(-self.examples // self.world) * self.world)
        return order[self.rank :: self.world]


def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The shuffled order of an epoch: a permutation of `examples` indices that depends on nothing else."""
    # NumPy promises that RandomState's streams never change, so a run can be resumed under a newer NumPy.
    return np.random.RandomState(_entropy(seed, epoch)).permutation(examples)


def _entropy(*numbers: int) -> list[int]:
    """Well-mixed 32-bit words from a few integers, of which only the low 64 bits count."""
    return np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(8).tolist()


def ordered(
    loader: DataLoader[Any],
    seed: int,
    rank: int = 0,
    world: int = 1,
    epoch: int = 0,
    start: int = 0,
    shuffle: bool | None = None,
    pad: bool | None = None,
) -> DataLoader[Any]:
    """The same loader, with an order of the data that is a pure function of (seed, epoch, rank, world).

    Everything else about the loader is kept: workers, `collate_fn`, `pin_memory` and what a subclass adds. Batches
    of a `TensorDataset` are fetched whole, which gives the same tensors many times faster.

    Args:
        loader: what the user made. One whose order is its own (a custom sampler or batch sampler, an iterable data
            set, a loader that keeps its own state, no `DataLoader` at all) is returned as it is; `is_ordered` tells.
        seed: of the order.
        rank: this device, from 0.
        world: how many devices share an epoch. Lightning must not shard again: `use_distributed_sampler=False`.
        epoch: the epoch that the next pass is in; right even for workers that fetch before `set_epoch` is called.
        start: batches of that epoch which a resumed run has behind it.
        shuffle: None keeps what the loader does: `RandomSampler` shuffles, `SequentialSampler` does not.
        pad: whether the devices' shares are made equal by repeating examples; None: only when shuffling.

    Returns:
        A new loader over the same data; the given one is left alone.
    """
    shuffled = _is_shuffled(loader)
    if shuffled is None:
        return loader
    shuffle = shuffled if shuffle is None else shuffle
    generator = torch.Generator()
    batches = ShardedBatches(
        len(loader.dataset),  # type: ignore[arg-type]
        _batch_size(loader),
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world=world,
        drop_last=_drops_last(loader),
        pad=shuffle if pad is None else pad,
        epoch=epoch,
        start=start,
        generator=generator,
    )
    # A copy keeps what a constructor call would have to list; DataLoader only forbids the assignments, since its
    # iterators look at these attributes when they are made, which is later.
    result = copy.copy(loader)
    vars(result).update(sampler=batches, generator=generator, _iterator=None)
    if batches.batch_size is not None:
        vars(result).update(batch_sampler=batches, batch_size=None, drop_last=False)
        if loader.collate_fn is torch.utils.data.default_collate and (whole := fetch_whole(loader.dataset)) is not None:
            vars(result).update(dataset=whole, collate_fn=collate_whole)
    return result


def is_ordered(loader: object) -> bool:
    """Whether a loader's order is lrflow's, so that a run can be resumed in the middle of an epoch exactly."""
    return isinstance(getattr(loader, "sampler", None), ShardedBatches) or isinstance(
        getattr(loader, "batch_sampler", None), ShardedBatches
    )


def _is_shuffled(loader: object) -> bool | None:
    """Whether a loader shuffles; None where its order is its own and is not to be replaced."""
    if not isinstance(loader, DataLoader) or hasattr(loader, "state_dict"):
        return None
    if is_ordered(loader):
        return (loader.batch_sampler or loader.sampler).shuffle  # type: ignore[union-attr]
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return None
    if type(loader.sampler) is SequentialSampler:
        return False
    if type(loader.sampler) is RandomSampler and not loader.sampler.replacement and loader.sampler._num_samples is None:
        return True
    return None


def _batch_size(loader: DataLoader[Any]) -> int | None:
    return None if loader.batch_sampler is None else loader.batch_sampler.batch_size  # type: ignore[union-attr]


def _drops_last(loader: DataLoader[Any]) -> bool:
    return False if loader.batch_sampler is None else loader.batch_sampler.drop_last  # type: ignore[union-attr]

"""The order of the data as a pure function of the seed, the epoch and the device.

A `RandomSampler` draws its order from a global generator, so where a run stands in its data depends on everything
that has drawn from that generator before. Here nothing is drawn: batch 17 of epoch 3 is the same batch whether the
run has walked there or was resumed there, and whatever the model, the workers or validation have done meanwhile.

What a loader's workers are handed: batches that seed themselves, and tensors fetched a whole batch at once.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    get_worker_info,
)


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


class ShardedBatches(Sampler[Any]):
    """Batches of indices for one of several devices: a batch sampler without hidden state.

    Every epoch has one order of all examples; device `rank` takes every `world`-th of them. All devices get the same
    number of batches: one with a batch more would wait for ever for the others, in validation too, where DDP
    broadcasts buffers in every forward pass.

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
            `DistributedSampler` does. Otherwise a share may be one example shorter, and no example is seen twice but
            where a device would be left without a batch (batches of one, or fewer examples than devices).
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
        if (batch_size is not None and batch_size < 1) or start < 0:
            raise ValueError(f"batch_size {batch_size}, start {start}")
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
        size = self.batch_size or 1
        return self._longest // size if self.drop_last else -(-self._longest // size)

    def __iter__(self) -> Iterator[Any]:
        # Not itself a generator function: what a pass yields is settled here, however soon or late it is gone through,
        # and a loader draws the base seed of its workers right after it has called this.
        if self.generator is not None:
            self.generator.manual_seed(_words(self.seed, self.epoch, self.rank)[0])
        shard = self.shard()
        if self.batch_size is None:
            return iter(shard[self.start :].tolist())
        return self._batches(shard, self.batch_size, self.epoch, self.start)

    def _batches(self, shard: np.ndarray, batch_size: int, epoch: int, start: int) -> Iterator[SeededBatch]:
        stops = np.minimum(np.arange(len(self) + 1) * batch_size, len(shard))
        if len(stops) > 2 and stops[-2] == len(shard):
            stops[-2] -= 1  # a share too short to reach the last batch spares it one example
        for number in range(start, len(self)):
            seed = _words(self.seed, epoch, self.rank, number)[0]
            yield SeededBatch(shard[stops[number] : stops[number + 1]].tolist(), seed)

    def shard(self) -> np.ndarray:
        """The indices that this device sees in the present epoch, in order; int64, [examples of this device]."""
        order = epoch_order(self.examples, self.seed, self.epoch) if self.shuffle else np.arange(self.examples)
        share = order[self.rank :: self.world]
        # A short share lacks just its last example. Where batches hold one example there is none to spare.
        must_pad = self.pad or not len(share) or (self.batch_size or 1) == 1
        if len(share) < self._longest and must_pad:
            missing = self.rank + (self._longest - 1) * self.world
            share = np.append(share, order[missing % self.examples])
        return share

    @property
    def _longest(self) -> int:
        """Examples of the device that has most."""
        return -(-self.examples // self.world)


def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The shuffled order of an epoch: a permutation of `examples` indices that depends on nothing else."""
    # NumPy promises that RandomState's streams never change, so a run can be resumed under a newer NumPy.
    return np.random.RandomState(_words(seed, epoch)).permutation(examples)


def _words(*numbers: int) -> list[int]:
    """Eight well-mixed 32-bit words from a few integers, of which the low 64 bits count."""
    # SeedSequence pads with zeros and runs the words of large numbers together; so their count, and two words for each.
    entropy = [len(numbers), *(word for number in numbers for word in (number % 2**32, (number >> 32) % 2**32))]
    return np.random.SeedSequence(entropy).generate_state(8).tolist()


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
    own = _own_order(loader)
    if own is None:
        return loader
    shuffle = own.shuffle if shuffle is None else shuffle
    generator = torch.Generator()
    batches = ShardedBatches(
        len(loader.dataset),  # type: ignore[arg-type]
        own.batch_size,
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world=world,
        drop_last=own.drop_last,
        pad=shuffle if pad is None else pad,
        epoch=epoch,
        start=start,
        generator=generator,
    )
    # A copy keeps all that a constructor call would have to list. DataLoader forbids these assignments only because
    # they would come too late for an iterator that exists; the copy has none yet.
    result = copy.copy(loader)
    vars(result).update(sampler=batches, generator=generator, _iterator=None)
    if own.batch_size is not None:
        vars(result).update(batch_sampler=batches, batch_size=None, drop_last=False)
        if loader.collate_fn is default_collate and (whole := fetch_whole(loader.dataset)) is not None:
            vars(result).update(dataset=whole, collate_fn=collate_whole)
    return result


def is_ordered(loader: object) -> bool:
    """Whether a loader's order is lrflow's, so that a run can be resumed in the middle of an epoch exactly."""
    return isinstance(getattr(loader, "sampler", None), ShardedBatches) or isinstance(
        getattr(loader, "batch_sampler", None), ShardedBatches
    )


class _Order(NamedTuple):
    shuffle: bool
    batch_size: int | None
    drop_last: bool


def _own_order(loader: object) -> _Order | None:
    """How a loader goes through its data; None where that is not for lrflow to say over again."""
    if not isinstance(loader, DataLoader) or hasattr(loader, "state_dict"):  # the latter resumes by itself
        return None
    batches, sampler = loader.batch_sampler, loader.sampler
    for present in (batches, sampler):
        if isinstance(present, ShardedBatches):
            return _Order(present.shuffle, present.batch_size, present.drop_last)
    if type(sampler) is RandomSampler:
        # Drawn with replacement, or another number than there are: no permutation of the data.
        shuffle = True
        known = not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    else:
        shuffle, known = False, type(sampler) is SequentialSampler
    if not known:
        return None
    if batches is None:
        return _Order(shuffle, None, False)
    return _Order(shuffle, batches.batch_size, batches.drop_last) if type(batches) is BatchSampler else None

"""The order of the data as a pure function of the seed, the epoch and the device.

A `RandomSampler` draws its order from a global generator, so that the order depends on everything that has drawn from
that generator before. Here nothing is drawn: batch 17 of epoch 3 is the same batch in a run that is resumed there and
in one that is not, and does not depend on the model, the workers or validation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
)

from lrflow.data.seeds import SeededBatch as SeededBatch
from lrflow.data.seeds import seed_words as seed_words


def ordered(
    loader: DataLoader[Any],
    seed: int,
    rank: int = 0,
    world: int = 1,
    epoch: int = 0,
    start: int = 0,
    shuffle: bool | None = None,
    pad: bool | None = None,
    fixed: bool = False,
    draws: Draws | None = None,
) -> DataLoader[Any]:
    """Return a copy of a loader whose data order is a pure function of (seed, epoch, rank, world).

    Everything else about the loader is kept: workers, `collate_fn`, `pin_memory` and the attributes of a subclass.
    Batches of a `TensorDataset` are fetched whole, which returns the same tensors many times faster.

    Args:
        loader: the user's loader. A loader with its own order (a custom sampler or batch sampler, an iterable data set,
            a loader with a `state_dict`, not a `DataLoader`) is returned as it is; `is_ordered` is false for it.
        seed: the seed of the order.
        rank: the number of this device, from 0.
        world: the number of devices that share an epoch. Lightning must not shard again:
            `use_distributed_sampler=False`.
        epoch: the epoch of the next pass; it also holds for workers that fetch before `set_epoch` is called.
        start: the number of batches of that epoch that were made before a resume.
        shuffle: whether to shuffle; None: as the loader does, whose `RandomSampler` shuffles.
        pad: whether the shares of the devices are made equal by repeating examples; None: only with shuffling.
        fixed: whether every epoch has the order of the first one.
        draws: how often each example is drawn in an epoch; None: as by the loader, once unless it has been given draws.

    Returns:
        A new loader over the same data; the given one is not changed.
    """
    own = _order_of(loader)
    if own is None:
        return loader
    order = getattr(loader.dataset, "epoch_order", None)
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
        fixed=fixed,
        draws=own.draws if draws is None else draws,
        order=order if isinstance(order, EpochOrder) else None,
    )
    # A copy keeps everything that a constructor call would have to list. DataLoader forbids these assignments because
    # an existing iterator would ignore them; the copy has no iterator yet.
    result = copy.copy(loader)
    vars(result).update(sampler=batches, generator=generator, _iterator=None)
    if own.batch_size is not None:
        vars(result).update(batch_sampler=batches, batch_size=None, drop_last=False)
        if loader.collate_fn is default_collate and (whole := fetch_whole(loader.dataset)) is not None:
            vars(result).update(dataset=whole, collate_fn=collate_whole)
    return result


def is_ordered(loader: object) -> bool:
    """Whether a loader has lrflow's order, so that a run can be resumed exactly in the middle of an epoch."""
    return isinstance(getattr(loader, "sampler", None), ShardedBatches) or isinstance(
        getattr(loader, "batch_sampler", None), ShardedBatches
    )


def start_at(loader: object, epoch: int, batch: int) -> None:
    """Let the next pass through a loader in lrflow's order begin at a batch of an epoch, both from 0."""
    for name in ("sampler", "batch_sampler"):
        if isinstance(batches := getattr(loader, name, None), ShardedBatches):
            batches.start_at(epoch, batch)


def order_of_examples(loader: object) -> tuple[int | None, bool]:
    """Return the examples of an epoch on this device, and whether an incomplete last batch is left out.

    The first is None for anything else than a single loader of batches in lrflow's order.
    """
    batches = getattr(loader, "sampler", None)
    if not isinstance(batches, ShardedBatches) or batches.batch_size is None:
        return None, False
    return batches._longest, batches.drop_last


def vary_batches(loader: object, ends: Callable[[int], Sequence[int]]) -> None:
    """Let a loader in lrflow's order make batches of several sizes.

    Args:
        loader: changed in place; the order of its examples stays.
        ends: returns the examples of an epoch on this device before each batch and after the last one.
    """
    for name in ("sampler", "batch_sampler"):
        if isinstance(batches := getattr(loader, name, None), ShardedBatches):
            batches.ends = ends


@dataclass(frozen=True, eq=False)
class Draws:
    """How often an epoch draws each example: in proportion to a weight, rounded up or down at random.

    Args:
        weights: of the examples, float64 [examples], at least 0 and not all 0.
        classes: numbers [examples], each of which is drawn in proportion to the sum of its weights, rounded; None: only
            single examples are.
    """

    weights: np.ndarray
    classes: np.ndarray | None = None

    @classmethod
    def balanced(cls, classes: np.ndarray) -> Draws:
        """Return draws that give each class an equal part of an epoch, and its examples equal parts of that."""
        _, numbers, counts = np.unique(classes, return_inverse=True, return_counts=True)
        return cls(1 / counts[numbers], numbers)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the shuffled order of an epoch, as many indices as there are examples: a pure function.

        Equidistant points are laid over the weights of the examples in a random order, sorted by class (systematic
        sampling; Madow and Madow, 1944), so that the number of draws varies less than with independent ones.
        """
        state = np.random.RandomState(seed_words(seed, epoch))
        order = state.permutation(len(self.weights))
        if self.classes is not None:
            order = order[np.argsort(self.classes[order], kind="stable")]
        ends = np.cumsum(self.weights[order])
        points = (state.random_sample() + np.arange(len(order))) * (ends[-1] / len(order))
        last = int(np.searchsorted(ends, ends[-1]))  # the last example with a weight, for a point that is rounded up
        drawn = order[np.minimum(np.searchsorted(ends, points, side="right"), last)]
        return drawn[state.permutation(len(drawn))]


class ShardedBatches(Sampler[Any]):
    """Batches of indices for one of several devices: a batch sampler without hidden state.

    Every epoch has one order of all examples; device `rank` takes every `world`-th of them. All devices get the same
    number of batches: a device with one more would wait for the others for ever. That includes validation, where DDP
    broadcasts buffers in every forward pass.

    Args:
        examples: the number of examples in the data set.
        batch_size: examples per batch on this device; None yields single indices, for a `DataLoader` whose
            `batch_size` is None.
        shuffle: whether each epoch has its own random order; otherwise all have the order of the data set.
        seed: the seed of the order; any integer.
        rank: the number of this device, from 0.
        world: the number of devices that share an epoch.
        drop_last: whether to leave out the last batch if it is smaller than `batch_size`.
        pad: whether to repeat an epoch's first examples at its end until the shares of the devices are equal, as
            `DistributedSampler` does. Otherwise a share may be one example shorter, and an example is repeated only
            where a device would have no batch (batches of one, or fewer examples than devices).
        epoch: the epoch of the first pass, from 0.
        start: the number of batches that passes through that epoch skip, for a run that is resumed in its middle.
            Other epochs are whole, and `len()` always counts a whole one.
        generator: the generator of the loader. It is seeded for every pass, so that the seeds of worker processes are
            a function of (seed, epoch, rank), too.
        fixed: whether every epoch has the order of the first one.
        draws: how often each example is drawn in an epoch, which has `examples` draws; None: once.
        order: the random orders; None: any permutation is as likely as another.
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
        fixed: bool = False,
        draws: Draws | None = None,
        order: EpochOrder | None = None,
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
        self.fixed = fixed
        self.draws = draws
        self.order = order
        self.ends: Callable[[int], Sequence[int]] | None = None
        """Examples of an epoch on this device before each batch and after the last; None: all have `batch_size`."""
        self._resumed = (epoch, start)

    @property
    def start(self) -> int:
        """The number of batches that the next pass skips: those made before a resume, in the first epoch only."""
        epoch, start = self._resumed
        return start if self.epoch == epoch else 0

    @property
    def sampler(self) -> ShardedBatches:
        """Itself: Lightning looks for `set_epoch` on a batch sampler's sampler."""
        return self

    def rewind(self) -> None:
        """Begin the next pass at the first batch of its epoch, also after a resume."""
        self._resumed = (self.epoch, 0)

    def start_at(self, epoch: int, batch: int) -> None:
        """Begin the next pass at a batch of an epoch; other epochs are whole."""
        self.epoch, self._resumed = epoch, (epoch, batch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.ends is not None:
            return len(self.ends(self.epoch)) - 1
        size = self.batch_size or 1
        return self._longest // size if self.drop_last else -(-self._longest // size)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator function: a pass is determined when it starts, not when it is iterated, and a loader draws the
        # base seed of its workers right after this call.
        if self.generator is not None:
            self.generator.manual_seed(seed_words(self.seed, self.epoch, self.rank)[0])
        shard = self.shard()
        if self.batch_size is None:
            return iter(shard[self.start :].tolist())
        return self._batches(shard, self.batch_size, self.epoch, self.start)

    def _batches(self, shard: np.ndarray, batch_size: int, epoch: int, start: int) -> Iterator[SeededBatch]:
        if self.ends is None:
            stops = np.minimum(np.arange(len(self) + 1) * batch_size, len(shard))
        else:
            stops = np.asarray(self.ends(epoch))
        if self.ends is None and len(stops) > 2 and stops[-2] == len(shard):
            stops[-2] -= 1  # a share that is too short for the last batch leaves it one example
        for number in range(start, len(stops) - 1):
            rows = shard[stops[number] : stops[number + 1]]
            yield SeededBatch(rows, (self.seed, epoch, self.rank, number))

    def shard(self) -> np.ndarray:
        """The indices for this device in the present epoch, in order; int64, [examples of this device]."""
        epoch = 0 if self.fixed else self.epoch
        if self.draws is not None:
            order = self.draws.order(self.seed, epoch)
        elif not self.shuffle:
            order = np.arange(self.examples)
        elif self.order is None:
            order = epoch_order(self.examples, self.seed, epoch)
        else:
            order = self.order(self.seed, epoch, self.world)
        share = order[self.rank :: self.world]
        # A short share lacks only its last example. If batches hold one example, no batch can leave one.
        must_pad = self.pad or not len(share) or (self.batch_size or 1) == 1
        if len(share) < self._longest and must_pad:
            missing = self.rank + (self._longest - 1) * self.world
            share = np.append(share, order[missing % self.examples])
        return share

    @property
    def _longest(self) -> int:
        """The number of examples of the device with the most."""
        return -(-self.examples // self.world)


class EpochOrder:
    """The random orders of a data set that is not read at random places; its attribute `epoch_order`."""

    def __call__(self, seed: int, epoch: int, world: int) -> np.ndarray:
        """Return a permutation of the indices, by the arguments alone; device r takes every `world`-th from r on."""
        raise NotImplementedError


def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The shuffled order of an epoch: a permutation of `examples` indices that depends only on the arguments."""
    # NumPy guarantees that the streams of RandomState never change, so that a newer NumPy can resume a run.
    return np.random.RandomState(seed_words(seed, epoch)).permutation(examples)


class WholeBatches(TensorDataset):
    """A `TensorDataset` from which a loader fetches whole batches, not single examples.

    Args:
        *tensors: tensors of equal length; example i is row i of each.
    """

    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """The batch that `default_collate` would return: one tensor [len(indices), ...] per tensor of the data set."""
        if isinstance(indices, SeededBatch):  # a subset gives a list of its own indices instead
            rows = torch.from_numpy(indices.rows)
        else:
            rows = torch.as_tensor(indices, dtype=torch.int64)
        return [tensor.index_select(0, rows.to(tensor.device)) for tensor in self.tensors]


def fetch_whole(dataset: Dataset[Any]) -> Dataset[Any] | None:
    """Return a data set of the same examples that returns collated batches; None if there is none."""
    if type(dataset) in (TensorDataset, WholeBatches):
        return WholeBatches(*dataset.tensors)  # type: ignore[attr-defined]
    if type(dataset) is Subset and (inner := fetch_whole(dataset.dataset)) is not None:
        return Subset(inner, dataset.indices)
    return None


def collate_whole(batch: list[torch.Tensor]) -> list[torch.Tensor]:
    """The `collate_fn` of batches that are fetched whole: return them as they are."""
    return batch


class _Order(NamedTuple):
    shuffle: bool
    batch_size: int | None
    drop_last: bool
    draws: Draws | None = None


def _order_of(loader: object) -> _Order | None:
    """The order of a loader; None if lrflow cannot replace it."""
    if not isinstance(loader, DataLoader) or hasattr(loader, "state_dict"):  # the latter resumes by itself
        return None
    batches, sampler = loader.batch_sampler, loader.sampler
    for present in (batches, sampler):
        if isinstance(present, ShardedBatches):
            return _Order(present.shuffle, present.batch_size, present.drop_last, present.draws)
    if type(sampler) is RandomSampler:
        # Sampling with replacement, or of another number of examples, is not a permutation of the data.
        shuffle = True
        known = not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    else:
        shuffle, known = False, type(sampler) is SequentialSampler
    if not known:
        return None
    if batches is None:
        return _Order(shuffle, None, False)
    return _Order(shuffle, batches.batch_size, batches.drop_last) if type(batches) is BatchSampler else None

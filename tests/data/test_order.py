from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric.utilities.data import _set_sampler_epoch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lrflow.data import ShardedBatches, is_ordered, ordered
from lrflow.data.order import epoch_order

shapes = st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5))  # examples, batch size, devices


def numbered(count: int = 23) -> TensorDataset:
    """Examples that say which they are."""
    return TensorDataset(torch.arange(count), torch.arange(count) * 2.0)


def seen(loader: DataLoader[Any]) -> list[list[int]]:
    """The example numbers of each batch."""
    return [batch[0].tolist() for batch in loader]


class Pictures(Dataset[Any]):
    """A data set that is not held in tensors and draws random numbers from every generator for each example."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, random.random(), float(np.random.rand()), torch.rand(()).item()


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


# The order itself


def test_an_epochs_order_is_a_permutation_that_never_changes() -> None:
    # Runs are resumed under other versions of everything, so the numbers themselves are part of the contract.
    assert epoch_order(10, seed=0, epoch=0).tolist() == [9, 6, 8, 0, 2, 5, 1, 7, 3, 4]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [8, 3, 5, 1, 0, 7, 9, 6, 2, 4]
    assert epoch_order(10, seed=-1, epoch=0).tolist() == [7, 5, 9, 0, 1, 4, 2, 8, 6, 3]


@given(st.integers(0, 50), st.integers(-(2**63), 2**63), st.integers(0, 2**40))
def test_an_epochs_order_holds_every_example_once(examples: int, seed: int, epoch: int) -> None:
    order = epoch_order(examples, seed, epoch)
    assert sorted(order) == list(range(examples))
    assert order.tolist() == epoch_order(examples, seed, epoch).tolist()


def test_seeds_and_epochs_have_different_orders() -> None:
    # (1, 0), (0, 1) and a seed of more than 32 bits are what a careless mixing of the two would confuse.
    pairs = [(0, 0), (1, 0), (0, 1), (1, 1), (2**32, 0), (2**32 + 1, 0), (-1, 0), (7, 3), (3, 7)]
    assert len({tuple(epoch_order(50, *pair)) for pair in pairs}) == len(pairs)


def test_every_position_is_equally_likely() -> None:
    counts = np.zeros((6, 6))
    for epoch in range(6000):
        counts[np.arange(6), epoch_order(6, 0, epoch)] += 1
    # 1000 expected in each cell; chi squared with 25 degrees of freedom is under 52.6 in 99.9% of cases.
    assert ((counts - 1000) ** 2 / 1000).sum() < 52.6


# Batches and shares


@given(shapes, st.booleans(), st.booleans(), st.integers(0, 3))
def test_a_resumed_pass_continues_where_the_first_stopped(
    shape: tuple[int, int, int], shuffle: bool, drop_last: bool, epoch: int
) -> None:
    examples, size, world = shape
    make = partial(ShardedBatches, examples, size, shuffle=shuffle, seed=5, rank=world - 1, world=world)
    whole = list(make(drop_last=drop_last, epoch=epoch))
    for start in range(len(whole) + 2):
        resumed = make(drop_last=drop_last, epoch=epoch, start=start)
        assert len(resumed) == len(whole)
        assert whole[:start] + list(resumed) == whole
        assert [batch.seed for batch in resumed] == [batch.seed for batch in whole[start:]]


@given(shapes, st.integers(0, 5), st.integers(0, 2))
def test_the_epochs_after_a_resumed_one_are_whole(shape: tuple[int, int, int], start: int, epoch: int) -> None:
    examples, size, world = shape
    make = partial(ShardedBatches, examples, size, shuffle=True, seed=5, world=world)
    resumed, never_stopped = make(epoch=epoch, start=start), make()
    list(resumed)
    for later in (epoch + 1, epoch + 2):
        resumed.set_epoch(later)
        never_stopped.set_epoch(later)
        assert resumed.start == 0
        assert list(resumed) == list(never_stopped)


def test_a_pass_may_be_started_twice_before_it_is_iterated() -> None:
    # As Lightning does, once to set up and once to run.
    batches = ShardedBatches(20, 4, shuffle=True, seed=0, epoch=2, start=3)
    iter(batches)
    batches.set_epoch(2)
    assert len(list(batches)) == 2


def test_a_pass_is_determined_when_it_starts() -> None:
    batches = ShardedBatches(20, 4, shuffle=True, seed=0)
    expected = list(batches)
    begun = iter(batches)
    batches.set_epoch(1)
    assert list(begun) == expected


@given(shapes, st.booleans())
def test_padded_shares_are_those_of_torch(shape: tuple[int, int, int], drop_last: bool) -> None:
    examples, size, world = shape
    for rank in range(world):
        reference = DistributedSampler(range(examples), world, rank, shuffle=False)  # type: ignore[arg-type]
        batches = ShardedBatches(
            examples, size, shuffle=False, seed=0, rank=rank, world=world, drop_last=drop_last, pad=True
        )
        assert list(batches) == list(BatchSampler(reference, size, drop_last))
        assert len(batches) == len(list(batches))


@given(shapes, st.booleans(), st.booleans())
def test_unpadded_shares_are_a_partition_with_equally_many_batches(
    shape: tuple[int, int, int], shuffle: bool, drop_last: bool
) -> None:
    examples, size, world = shape
    shares = [
        ShardedBatches(examples, size, shuffle=shuffle, seed=1, rank=rank, world=world, drop_last=drop_last, pad=False)
        for rank in range(world)
    ]
    passes = [list(share) for share in shares]
    assert {len(batches) for batches in passes} == {len(shares[0])}
    assert all(0 < len(batch) <= size for batches in passes for batch in batches)
    if size > 1 and examples >= world:
        indices = [index for batches in passes for batch in batches for index in batch]
        assert len(indices) == len(set(indices))
        assert drop_last or sorted(indices) == list(range(examples))
        assert sorted(np.concatenate([share.shard() for share in shares])) == list(range(examples))


@pytest.mark.parametrize(("examples", "size", "world"), [(3, 1, 2), (2, 4, 3), (7, None, 2)])
def test_one_example_is_repeated_where_a_device_would_have_no_batch(
    examples: int, size: int | None, world: int
) -> None:
    passes = [
        list(ShardedBatches(examples, size, shuffle=False, seed=0, rank=rank, world=world, pad=False))
        for rank in range(world)
    ]
    assert len({len(batches) for batches in passes}) == 1
    assert set(np.concatenate([np.ravel(batches) for batches in passes])) == set(range(examples))


def test_one_device_has_the_batches_of_a_plain_loader() -> None:
    for drop_last in (False, True):
        plain = DataLoader(numbered(), batch_size=5, drop_last=drop_last)
        assert seen(ordered(plain, seed=3)) == seen(plain)
        assert len(ordered(plain, seed=3)) == len(plain)


@pytest.mark.parametrize("wrong", [{"rank": 2, "world": 2}, {"batch_size": 0}, {"start": -1}])
def test_invalid_arguments_raise_an_error(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ShardedBatches(**{"examples": 5, "batch_size": 2, "shuffle": True, "seed": 0, **wrong})  # type: ignore[arg-type]


# Loaders


def test_a_shuffling_loader_is_shuffled_and_the_given_one_left_alone() -> None:
    plain = DataLoader(numbered(), batch_size=4, shuffle=True, drop_last=True)
    loader = ordered(plain, seed=3)
    assert is_ordered(loader)
    assert not is_ordered(plain)
    assert isinstance(plain.sampler, RandomSampler)
    assert np.concatenate(seen(loader)).tolist() == epoch_order(23, 3, 0)[:20].tolist()


def test_lightning_moves_the_epoch_on() -> None:
    for batch_size in (4, None):
        loader = ordered(DataLoader(numbered(), batch_size=batch_size, shuffle=True), seed=3)
        first = seen(loader)
        _set_sampler_epoch(loader, 1)
        second = seen(loader)
        _set_sampler_epoch(loader, 0)
        assert first != second
        assert seen(loader) == first


def test_lightning_moves_the_epoch_on_in_a_loader_made_by_hand() -> None:
    batches = ShardedBatches(23, 4, shuffle=True, seed=3)
    loader = DataLoader(numbered(), batch_sampler=batches)
    _set_sampler_epoch(loader, 5)
    assert batches.epoch == 5
    assert is_ordered(loader)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(persistent: bool) -> None:
    def passes(workers: int) -> list[list[list[int]]]:
        plain = DataLoader(
            numbered(), 4, shuffle=True, num_workers=workers, persistent_workers=persistent and workers > 0
        )
        loader = ordered(plain, seed=3, epoch=1, start=2)
        result = []
        for epoch in (1, 2):
            # As Lightning does: the iterator is made, and its workers fetch, before the epoch is told.
            iterator = iter(loader) if epoch == 1 else None
            _set_sampler_epoch(loader, epoch)
            result.append([batch[0].tolist() for batch in iterator or loader])
        return result

    assert passes(2) == passes(0)
    assert len(passes(0)[0]) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_drawn_from(
    workers: int, global_rng_untouched: Callable[[], AbstractContextManager[None]]
) -> None:
    for shuffle in (True, False):
        with global_rng_untouched():
            loader = ordered(DataLoader(numbered(), batch_size=4, shuffle=shuffle, num_workers=workers), seed=3)
            assert len(list(loader)) == 6
            _set_sampler_epoch(loader, 1)
            assert len(list(loader)) == 6


def test_random_numbers_of_workers_do_not_depend_on_a_resume() -> None:
    def batches(workers: int, epoch: int, start: int) -> list[list[torch.Tensor]]:
        plain = DataLoader(Pictures(), batch_size=4, shuffle=True, num_workers=workers)
        return list(ordered(plain, seed=3, epoch=epoch, start=start))

    def equal(left: list[list[torch.Tensor]], right: list[list[torch.Tensor]]) -> bool:
        return [[row.tolist() for row in batch] for batch in left] == [
            [row.tolist() for row in batch] for batch in right
        ]

    whole = batches(workers=2, epoch=1, start=0)
    assert equal(batches(workers=2, epoch=1, start=3), whole[3:])
    assert equal(batches(workers=1, epoch=1, start=0), whole)
    drawn = [batch[1:] for batch in whole + batches(workers=2, epoch=2, start=0)]
    assert len({value for batch in drawn for row in batch for value in row.tolist()}) == 2 * 3 * 23


def test_every_batch_has_a_seed_of_its_own() -> None:
    batches = [
        batch
        for seed, epoch, rank in itertools.product((3, 4), (0, 1), (0, 1))
        for batch in ShardedBatches(8, 2, shuffle=True, seed=seed, rank=rank, world=2, epoch=epoch)
    ]
    assert len({batch.seed for batch in batches}) == len(batches) == 16


def test_seeds_of_workers_do_not_depend_on_a_resume() -> None:
    # Without batches nothing is seeded but the worker itself.
    plain = DataLoader(Pictures(), batch_size=None, num_workers=1)

    def drawn(loader: DataLoader[Any]) -> list[list[float]]:
        return [list(example) for example in loader]

    walked = ordered(plain, seed=3)
    first = drawn(walked)
    _set_sampler_epoch(walked, 1)
    second = drawn(walked)
    assert second == drawn(ordered(plain, seed=3, epoch=1))
    assert second != first


def test_in_the_main_process_a_data_set_draws_from_the_runs_generators() -> None:
    loader = ordered(DataLoader(Pictures(), batch_size=4), seed=3)
    torch.manual_seed(11)
    drawn = torch.cat([batch[3] for batch in loader])
    torch.manual_seed(11)
    assert drawn.tolist() == [torch.rand(()).item() for _ in range(23)]


def test_all_other_attributes_of_a_loader_are_kept() -> None:
    def collate(items: list[Any]) -> list[Any]:
        return items

    def start(worker: int) -> None: ...

    class Mine(DataLoader[Any]):
        def __init__(self, dataset: Dataset[Any], colour: str, **options: Any) -> None:
            super().__init__(dataset, **options)
            self.colour = colour

    data = numbered()
    plain = Mine(
        data,
        "red",
        batch_size=4,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        collate_fn=collate,
        pin_memory=True,
        timeout=9.0,
        worker_init_fn=start,
        multiprocessing_context="spawn",
        prefetch_factor=3,
        persistent_workers=True,
        in_order=False,
    )
    loader = ordered(plain, seed=3)
    assert type(loader) is Mine
    kept = "colour dataset num_workers collate_fn pin_memory timeout worker_init_fn multiprocessing_context"
    for name in [*kept.split(), "prefetch_factor", "persistent_workers", "in_order"]:
        assert getattr(loader, name) is getattr(plain, name) or getattr(loader, name) == getattr(plain, name), name
    assert len(loader) == 5


def test_a_collate_function_of_the_users_gets_the_examples() -> None:
    loader = ordered(DataLoader(numbered(), batch_size=4, collate_fn=lambda items: [len(items), items[0]]), seed=3)
    first = next(iter(loader))
    assert first[0] == 4
    assert first[1][0].item() == 0


def test_a_loader_without_batches_returns_single_examples() -> None:
    plain = DataLoader(numbered(), batch_size=None, shuffle=True)
    loader = ordered(plain, seed=3, epoch=1, start=5)
    assert [example[0].item() for example in loader] == epoch_order(23, 3, 1)[5:].tolist()
    assert len(loader) == 23
    assert is_ordered(loader)


def test_shuffling_can_be_set() -> None:
    loader = ordered(DataLoader(numbered(), batch_size=23, shuffle=True), seed=3, shuffle=False)
    assert seen(loader) == [list(range(23))]
    loader = ordered(DataLoader(numbered(), batch_size=23), seed=3, shuffle=True)
    assert seen(loader) == [epoch_order(23, 3, 0).tolist()]


def test_only_training_is_padded_by_default() -> None:
    def shares(**options: Any) -> list[int]:
        return [sum(map(len, seen(ordered(DataLoader(numbered(), **options), 3, rank, 2)))) for rank in (0, 1)]

    assert shares(batch_size=4, shuffle=True) == [12, 12]
    assert shares(batch_size=4) == [12, 11]
    evened = [ordered(DataLoader(numbered(), batch_size=4), 3, rank, 2, pad=True) for rank in (0, 1)]
    assert [sum(map(len, seen(loader))) for loader in evened] == [12, 12]


def test_ordering_twice_is_ordering_once() -> None:
    for options in ({"batch_size": 4, "drop_last": True}, {"batch_size": None}):
        plain = DataLoader(numbered(), shuffle=True, **options)  # type: ignore[arg-type]
        again = ordered(ordered(plain, seed=9, rank=1, world=2, epoch=3, start=1), seed=3)
        assert seen(again) == seen(ordered(plain, seed=3))


class Backwards(SequentialSampler):
    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self) - 1, -1, -1))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(numbered(), batch_size=4, sampler=WeightedRandomSampler([1.0] * 23, 23)),
        DataLoader(numbered(), batch_size=4, sampler=RandomSampler(numbered(), replacement=True)),
        DataLoader(numbered(), batch_size=4, sampler=RandomSampler(numbered(), num_samples=7)),
        DataLoader(numbered(), batch_size=4, sampler=DistributedSampler(numbered(), 2, 0)),
        DataLoader(numbered(), batch_size=4, sampler=Backwards(numbered())),
        DataLoader(numbered(), batch_size=4, sampler=range(7)),
        DataLoader(numbered(), batch_size=None, sampler=range(7)),
        DataLoader(numbered(), batch_sampler=[[1, 2], [3]]),
        DataLoader(numbered(), batch_sampler=type("Own", (BatchSampler,), {})(SequentialSampler(numbered()), 4, False)),
        DataLoader(Stream(), batch_size=4),
        [torch.zeros(2)],
    ],
)
def test_a_users_own_order_is_not_changed(loader: Any) -> None:
    assert ordered(loader, seed=3, epoch=1, start=1) is loader
    assert not is_ordered(loader)


def test_a_loader_with_its_own_state_is_not_changed() -> None:
    class Stateful(DataLoader[Any]):
        def state_dict(self) -> dict[str, int]:
            return {}

    loader = Stateful(numbered(), batch_size=4, shuffle=True)
    assert ordered(loader, seed=3) is loader


def test_a_subset_keeps_its_examples() -> None:
    chosen = [5, 3, 8, 1, 9]
    loader = ordered(DataLoader(Subset(numbered(), chosen), batch_size=2), seed=3)
    assert seen(loader) == [[5, 3], [8, 1], [9]]


# Through Lightning's loops


class Recorder(pl.LightningModule):
    """Writes down which examples it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.examples: list[list[int]] = []

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        self.examples.append(batch[0].tolist())
        return self.weight * batch[1].sum()

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(folder: Path, workers: int, epoch: int = 0, start: int = 0, resume: Path | None = None) -> list[list[int]]:
    """Three epochs of six batches; a checkpoint after every step."""
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
    )
    model = Recorder()
    train = DataLoader(numbered(), batch_size=4, shuffle=True, num_workers=workers)
    trainer.fit(
        model,
        ordered(train, seed=3, epoch=epoch, start=start),
        ordered(DataLoader(numbered(), batch_size=9), seed=3),
        ckpt_path=resume,
        weights_only=False,
    )
    assert trainer.global_step == 18
    return model.examples


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_by_lightning_sees_the_rest_of_the_data(tmp_path: Path, workers: int) -> None:
    whole = fit(tmp_path, workers)
    assert whole == [batch for epoch in range(3) for batch in seen(ordered(full_loader(), seed=3, epoch=epoch))]
    for step in (2, 6, 8, 12, 17):
        resumed = fit(tmp_path / "again", workers, *divmod(step, 6), tmp_path / f"step={step}.ckpt")
        assert whole[:step] + resumed == whole


def full_loader() -> DataLoader[Any]:
    return DataLoader(numbered(), batch_size=4, shuffle=True)

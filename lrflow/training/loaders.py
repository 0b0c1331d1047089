"""The loaders of any data module, in an order that is a pure function of the seed, the epoch and the device.

Where a run stands in its data, told to Lightning's loops so that they go on there exactly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.progress import _ProcessedTracker
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils._pytree import tree_map_only
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lrflow.config import Config
from lrflow.config.length import Epoch, count_steps
from lrflow.data import is_ordered, ordered
from lrflow.errors import ConfigError, Problem
from lrflow.files import user_lock
from lrflow.schedules import Horizon
from lrflow.schedules._arguments import uncountable_hint
from lrflow.training.loops import combine
from lrflow.training.trainer import quieten_lightning


@dataclass(frozen=True)
class Position:
    """The next batch of a run.

    Args:
        epoch: the epoch it belongs to, from 0.
        batch: its number in that epoch, from 0; batches of this device.
        seen: batches behind it, over all epochs.
    """

    epoch: int = 0
    batch: int = 0
    seen: int = 0

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Position:
        """Where a trainer stands after a batch, before the next one."""
        loop = trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        begun = loop.epoch_progress.current
        assert isinstance(begun, _ProcessedTracker)
        epoch, batch = begun.started - 1, progress.current.ready
        if progress.is_last_batch or batch >= trainer.num_training_batches:
            return cls(epoch + 1, 0, progress.total.ready)
        return cls(epoch, batch, progress.total.ready)

    def as_dict(self) -> dict[str, int]:
        """Plain data for a checkpoint."""
        return asdict(self)

    def write_into(self, loops: dict[str, Any]) -> None:
        """Rewrite the state of Lightning's loops so that they resume at this position.

        Lightning saves its counters as they stand inside whatever hook saves, and tells from their differences
        where it was; several of those places resume wrongly (an epoch's end counts an empty epoch, a step's end
        skips its validation; 2.6.6). Two places are enough, and both resume exactly: between two batches of an
        epoch, all counters equal and the epoch begun; between two epochs, all counters equal and none begun.

        Args:
            loops: `checkpoint["loops"]["fit_loop"]`, changed in place.
        """
        begun = self.epoch + (1 if self.batch else 0)
        epochs = {"ready": begun, "started": begun, "processed": self.epoch, "completed": self.epoch}
        loops["epoch_progress"] = {"total": epochs, "current": dict(epochs)}
        loops["epoch_loop.batch_progress"] = {
            "total": _equal_counts(self.seen),
            "current": _equal_counts(self.batch),
            "is_last_batch": False,
        }
        validation = loops["epoch_loop.val_loop.batch_progress"]
        validation["total"] = validation["current"] = _equal_counts(0)


START = Position()


def set_progress(trainer: pl.Trainer, step: int, steps_per_epoch: int) -> None:
    """Set the counters of a trainer as they are after so many steps of one batch each, before a validation.

    For a loop that is not Lightning's, whose trainers still save checkpoints and tell where they are.

    Args:
        trainer: changed in place.
        step: optimizer steps done, at least one.
        steps_per_epoch: batches of an epoch.
    """
    epoch, batch = divmod(step - 1, steps_per_epoch)
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    counts = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    fit.epoch_progress.load_state_dict({"total": counts, "current": counts})
    last = batch + 1 == steps_per_epoch
    loop.batch_progress.load_state_dict(
        {"total": _equal_counts(step), "current": _equal_counts(batch + 1), "is_last_batch": last}
    )
    loop._batches_that_stepped = step
    loop.scheduler_progress.total.ready = loop.scheduler_progress.total.completed = step
    optimizer = loop.automatic_optimization.optim_progress.optimizer
    for progress in (optimizer.step.total, optimizer.zero_grad.total):
        progress.ready = progress.completed = step


def _equal_counts(count: int) -> dict[str, int]:
    return {"ready": count, "started": count, "processed": count, "completed": count}


log = logging.getLogger("lrflow")


def order_loaders(
    data: pl.LightningDataModule, seed: int, position: Position = START, rank: int = 0, world: int = 1
) -> None:
    """Make a data module's loaders resumable and sharded; they stay the user's in everything else.

    `setup` runs once a stage, since lrflow counts the run's steps before Lightning sets the data up again. A data
    module that brings back its own state from a checkpoint (`load_state_dict`) knows itself where its loaders stand.

    Args:
        data: changed in place.
        seed: of the order.
        position: where the training loader begins.
        rank: this process, from 0.
        world: processes that share the data.
    """

    told: list[object] = []

    def in_order(loader: DataLoader[Any], training: bool, alone: bool) -> DataLoader[Any]:
        # Of several loaders the shorter ones begin again within an epoch, so none can be begun in its middle.
        at = position if training and alone else Position(position.epoch if training else 0)
        if training and not alone and position.batch:
            log.warning("of several training loaders each begins its epoch anew: the resumed run is not exact")
        result = ordered(loader, seed, rank, world, epoch=at.epoch, start=at.batch, pad=training)
        if training and not is_ordered(result) and not is_overridden("load_state_dict", data) and not told:
            told.append(loader)
            log.warning(
                "the training loader brings its own order (%s): a run interrupted within an epoch cannot be resumed "
                "exactly, and lrflow does not shard it over devices",
                type(_source_of_order(loader)).__name__,
            )
        return result

    def wrap(name: str, training: bool) -> None:
        make = getattr(data, name)

        @wraps(make)
        def loaders() -> Any:
            made = make()
            alone = isinstance(made, DataLoader)
            return tree_map_only(DataLoader, lambda loader: in_order(loader, training, alone), made)

        setattr(data, name, loaders)

    wrap("train_dataloader", training=True)
    for name in ("val_dataloader", "test_dataloader"):
        wrap(name, training=False)

    setup, done = data.setup, set()

    @wraps(setup)
    def setup_once(stage: str) -> None:
        if stage not in done:
            setup(stage)
            done.add(stage)

    data.setup = setup_once  # type: ignore[method-assign]


def _source_of_order(loader: DataLoader[Any]) -> object:
    """What decides the order of a loader's examples: its data, its batch sampler or its sampler."""
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset
    return loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler


def set_up_data(
    data: pl.LightningDataModule,
    trainer: pl.Trainer | None,
    seed: int,
    position: Position | None = None,
    is_set_up: bool = False,
    processes: int = 1,
) -> pl.LightningDataModule:
    """The data module with its loaders in the run's order, set up for training.

    Args:
        data: changed in place.
        trainer: tells which of how many processes that share the data this is; None: nothing is to be trained, and it
            is the first.
        seed: of its order.
        position: the batch that a resumed run goes on with; None: the first.
        is_set_up: whether another run has set it up already.
        processes: that share the data, where there is no trainer.
    """
    quieten_lightning()  # which looks at the loaders also where there is no trainer
    rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, processes)
    order_loaders(data, seed, position or START, rank, world)
    data.trainer = trainer
    if not is_set_up:
        with user_lock("data"):
            data.prepare_data()
        data.setup("fit")
    return data


def count_horizon(config: Config, data: pl.LightningDataModule, processes: int) -> Horizon:
    """How many optimizer steps the run has, from the batches of the data that was set up.

    Args:
        config: what ends the run.
        data: its loaders are already divided among the processes.
        processes: that each draw batches of their own.

    Raises:
        ConfigError: an epoch has no batch, or no length is known.
    """
    loaders = data.train_dataloader()
    if loaders is None:
        message = f"{type(data).__name__}.train_dataloader() returns None, so there is nothing to train on"
        raise ConfigError([Problem("data", message)])
    epoch = Epoch(_batches(loaders), _samples_per_batch(loaders))
    if epoch.batches == 0:
        message = f"the training data on {processes} device(s) does not fill a single batch"
        hint = "give more examples, or a smaller batch"
        raise ConfigError([Problem("data.batch_size", message, epoch.samples_per_batch or ..., hint)])
    return count_steps(config, epoch, processes)


@contextmanager
def check_intervals(config: Config, horizon: Horizon) -> Iterator[None]:
    """See that how often a run validates and saves can be counted in its steps, like what the body counts in them.

    Raises:
        ConfigError: names what is in epochs or samples that nobody can count, and what the body raises.
    """
    trainer, problems = config.trainer, []
    for key, every in {
        "trainer.val_every": trainer.val_every,
        "trainer.checkpoint.every": trainer.checkpoint.every,
        "sharpness.every": config.sharpness_every,
    }.items():
        if every is None:
            continue
        if key != "sharpness.every" and every.whole_epochs:
            continue  # the end of an epoch is seen when it is there
        try:
            every.steps(horizon)
        except ValueError as error:
            problems.append(Problem(key, str(error), str(every), uncountable_hint(every)))
    try:
        yield
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)


def _batches(loaders: Any) -> int | None:
    """Batches of an epoch as Lightning counts them: of several loaders, those of the longest; None: no end is known."""
    combined = combine(loaders)
    try:
        lengths = [len(loader) for loader in combined.flattened]
    except (TypeError, NotImplementedError):
        return None
    return min(lengths) if combined._mode == "min_size" else max(lengths, default=0)


def _samples_per_batch(loader: Any) -> float | None:
    """What a batch of one device holds: as the loader says, or as it was made; None: nobody knows."""
    told = getattr(loader, "samples_per_batch", None), getattr(loader, "batch_size", None)
    made = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return told[0] or told[1] or made

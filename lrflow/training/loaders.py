"""Data loaders of a run: their reproducible order, the position to resume at, and the horizon counted from them."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import wraps
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.progress import _ProcessedTracker
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils._pytree import tree_map_only
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lrflow.augment.base import Augmented
from lrflow.config import Config
from lrflow.config.batch_schedule import Epoch
from lrflow.config.length import count_steps
from lrflow.data import is_ordered, ordered
from lrflow.data.order import order_of_examples
from lrflow.errors import ConfigError, Problem
from lrflow.files import user_lock
from lrflow.schedules import Horizon
from lrflow.schedules._arguments import uncountable_hint
from lrflow.stops import leave_to_parent
from lrflow.training.look_ahead import combine
from lrflow.training.trainer import quieten_lightning

log = logging.getLogger("lrflow")


@dataclass(frozen=True)
class Position:
    """The position of a run's next batch in the data.

    Args:
        epoch: its epoch, from 0.
        batch: its index in that epoch, from 0, among the batches of this device.
        seen: number of batches before it, over all epochs.
    """

    epoch: int = 0
    batch: int = 0
    seen: int = 0

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Position:
        """Return the position of a trainer between two batches."""
        loop = trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        epochs = loop.epoch_progress.current
        assert isinstance(epochs, _ProcessedTracker)
        epoch, batch = max(0, epochs.started - 1), progress.current.ready  # no epoch has started before the first step
        if progress.is_last_batch or batch >= trainer.num_training_batches:
            return cls(epoch + 1, 0, progress.total.ready)
        return cls(epoch, batch, progress.total.ready)

    def redivided(self, before: int, now: int) -> Position:
        """Return the same position where an optimizer step of as many examples takes another number of batches.

        Args:
            before: batches per optimizer step of each device so far; `batch` is a multiple of it.
            now: batches per optimizer step of each device from here on.
        """
        batch = self.batch // before * now
        return replace(self, batch=batch, seen=self.seen + batch - self.batch)

    def as_dict(self) -> dict[str, int]:
        """Return plain data for a checkpoint."""
        return asdict(self)

    def write_into(self, loops: dict[str, Any]) -> None:
        """Rewrite the state of Lightning's loops so that they resume at this position.

        Lightning (2.6.6) saves its counters as they are inside the hook that saves, and derives the position from their
        differences; several positions resume wrongly: after an epoch's end it counts an empty epoch, after a step's end
        it skips the validation. The two states written here resume exactly: between two batches all counters are equal
        and the epoch has started; between two epochs all counters are equal and no epoch has started.

        Args:
            loops: `checkpoint["loops"]["fit_loop"]`, changed in place.
        """
        started = self.epoch + (1 if self.batch else 0)
        epochs = {"ready": started, "started": started, "processed": self.epoch, "completed": self.epoch}
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
    """Set the counters of a trainer to those after `step` steps of one batch each, before a validation.

    Training loops other than Lightning's need this for checkpoints and progress.

    Args:
        trainer: changed in place.
        step: number of optimizer steps done, at least one.
        steps_per_epoch: number of batches per epoch.
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


def set_up_data(
    data: pl.LightningDataModule,
    trainer: pl.Trainer | None,
    seed: int,
    position: Position | None = None,
    is_set_up: bool = False,
    processes: int = 1,
    overfit: int | float | None = None,
) -> pl.LightningDataModule:
    """Return the data module, set up for training, with its loaders in the run's order.

    Args:
        data: changed in place.
        trainer: gives the rank and the number of processes; None: nothing will be trained, and the rank is 0.
        seed: seed of the order.
        position: the next batch of a resumed run; None: the first.
        is_set_up: whether another run has set up the data already.
        processes: number of processes that share the data, if there is no trainer.
        overfit: `trainer.overfit_batches`: number or share of batches to train and validate on; None: all.

    Raises:
        ConfigError: there are several training loaders, and the run is to validate on some batches of one.
    """
    quieten_lightning()  # Lightning also checks loaders if there is no trainer
    rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, processes)
    order_loaders(data, seed, position or START, rank, world, fixed=overfit is not None)
    data.trainer = trainer
    if not is_set_up:
        with user_lock("data"):
            data.prepare_data()
        data.setup("fit")
    if overfit is not None:
        _validate_on_training_batches(data, trainer, overfit)
    return data


def _validate_on_training_batches(
    data: pl.LightningDataModule, trainer: pl.Trainer | None, overfit: int | float
) -> None:
    """Let a run train on the same batches in each epoch, and validate on them.

    Args:
        data: with loaders in the order of the run; changed in place.
        trainer: of the run; changed in place.
        overfit: number or share of batches.

    Raises:
        ConfigError: there are several training loaders.
    """
    make, loader = data.train_dataloader, data.train_dataloader()
    if isinstance(loader, list | tuple | dict | CombinedLoader):
        message = f"{type(data).__name__} has several training loaders, and a validation is on the batches of one"
        raise ConfigError([Problem("trainer.overfit_batches", message, overfit, "leave it out")])
    if not is_ordered(loader):
        log.warning("the training loader has its own order: trainer.overfit_batches uses the first of each epoch")

    @wraps(make)
    def training_batches() -> Any:
        result = make()
        if isinstance(augmented := getattr(result, "dataset", None), Augmented):
            object.__setattr__(result, "dataset", augmented.plain())  # which DataLoader forbids
        if is_ordered(result):  # of a whole epoch, where the run was resumed within one
            result.sampler.rewind()
        return result

    warnings.filterwarnings("ignore", message=".*sampler has shuffling enabled.*")  # the order is always the same
    data.val_dataloader = training_batches  # type: ignore[method-assign]
    if trainer is not None:  # a share as a number, which Lightning counts alike for loaders of any length
        number = overfit if isinstance(overfit, int) else int((_batches(loader) or 0) * overfit)
        trainer.limit_train_batches = trainer.limit_val_batches = number or 1


def order_loaders(
    data: pl.LightningDataModule,
    seed: int,
    position: Position = START,
    rank: int = 0,
    world: int = 1,
    fixed: bool = False,
) -> None:
    """Make a data module's loaders resumable and sharded over devices; nothing else about them changes.

    `setup` runs once per stage, because lrflow counts the run's steps before Lightning sets the data up again. A data
    module that restores its own state from a checkpoint (`load_state_dict`) resumes its loaders itself.

    Args:
        data: changed in place.
        seed: seed of the order.
        position: where the training loader starts.
        rank: rank of this process, from 0.
        world: number of processes that share the data.
        fixed: whether every epoch has the order of the first one.
    """

    has_warned = False

    def in_order(loader: DataLoader[Any], training: bool, alone: bool) -> DataLoader[Any]:
        nonlocal has_warned
        # With several loaders the shorter ones restart within an epoch, so none can start in the middle of it.
        at = position if training and alone else Position(position.epoch if training else 0)
        if training and not alone and position.batch:
            log.warning("each of several training loaders restarts its epoch, so the resumed run is not exact")
        result = ordered(loader, seed, rank, world, epoch=at.epoch, start=at.batch, pad=training, fixed=fixed)
        if result.num_workers and not isinstance(result.worker_init_fn, SteadyWorker):
            result.worker_init_fn = SteadyWorker(result.worker_init_fn)
        if training and not is_ordered(result) and not is_overridden("load_state_dict", data) and not has_warned:
            has_warned = True
            log.warning(
                "the training loader has its own order (%s): a run interrupted within an epoch cannot be resumed "
                "exactly, and lrflow does not shard it over devices",
                type(_source_of_order(loader)).__name__,
            )
        return result

    def wrap(name: str, training: bool) -> None:
        make = getattr(data, name)

        @wraps(make)
        def loaders() -> Any:
            result = make()
            alone = isinstance(result, DataLoader)
            return map_loaders(lambda loader: in_order(loader, training, alone), result)

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


def map_loaders(function: Callable[[DataLoader[Any]], DataLoader[Any]], loaders: Any) -> Any:
    """Return loaders as a data module returns them (one, lists, dicts, a `CombinedLoader`), each replaced.

    Args:
        function: returns what replaces a loader; anything else than a `DataLoader` stays.
        loaders: they and their containers are not changed.
    """
    if not isinstance(loaders, CombinedLoader):
        return tree_map_only(DataLoader, function, loaders)
    result = copy.copy(loaders)
    result.flattened = [function(one) if isinstance(one, DataLoader) else one for one in loaders.flattened]
    return result


class SteadyWorker:
    """Initializes a loader's worker so that it leaves signals to its parent: a run that stops needs its workers.

    Args:
        init: the loader's own `worker_init_fn`.
    """

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        """Initialize the worker of this number."""
        leave_to_parent()
        if self.init is not None:
            self.init(worker)


def _source_of_order(loader: DataLoader[Any]) -> object:
    """Return the object that determines the order of a loader's examples: dataset, batch sampler or sampler."""
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset
    return loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler


def count_horizon(config: Config, data: pl.LightningDataModule, processes: int) -> Horizon:
    """Return the length of the run, counted from the batches of the data.

    Args:
        config: its `trainer` section limits the run.
        data: set up, with loaders that are already divided among the processes.
        processes: number of processes that each load their own batches.

    Raises:
        ConfigError: an epoch has no batch, or the length is unknown.
    """
    loaders = data.train_dataloader()
    if loaders is None:
        message = f"{type(data).__name__}.train_dataloader() returns None, so there is nothing to train on"
        raise ConfigError([Problem("data", message)])
    epoch = Epoch(_batches(loaders), samples_per_batch(loaders), *order_of_examples(loaders))
    if epoch.batches == 0:
        message = f"the training data on {processes} device(s) does not fill a single batch"
        hint = "give more examples, or a smaller batch"
        raise ConfigError([Problem("data.batch_size", message, epoch.samples_per_batch or ..., hint)])
    return count_steps(config, epoch, processes)


@contextmanager
def check_intervals(config: Config, horizon: Horizon) -> Iterator[None]:
    """Check that the intervals of validation, checkpoints and measurements can be counted in steps; collect errors.

    Raises:
        ConfigError: lists intervals in epochs or samples whose length is unknown, and the problems of the body.
    """
    trainer, problems = config.trainer, []
    for key, every in {
        "trainer.val_every": trainer.val_every,
        "trainer.checkpoint.every": trainer.checkpoint.every,
        "sharpness.every": config.sharpness_every,
        "signals.every": config.signals.every,
    }.items():
        if every is None:
            continue
        if key.startswith("trainer.") and every.whole_epochs:
            continue  # the end of an epoch needs no count
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
    """Return the batches per epoch as Lightning counts them: those of the longest loader; None if unknown."""
    combined = combine(loaders)
    try:
        lengths = [len(loader) for loader in combined.flattened]
    except (TypeError, NotImplementedError):
        return None
    return min(lengths) if combined._mode == "min_size" else max(lengths, default=0)


def samples_per_batch(loader: Any) -> float | None:
    """Return the number of samples per batch of one device, from attributes of the loader; None if unknown."""
    own = getattr(loader, "samples_per_batch", None) or getattr(loader, "batch_size", None)
    return own or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)

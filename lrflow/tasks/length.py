"""How long a run is, from the batches of its data, and whether what is said in epochs or samples can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.config.length import Epoch, count_steps
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Horizon
from lrflow.schedules.fields import uncounted
from lrflow.training.loops import combine


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
            problems.append(Problem(key, str(error), str(every), uncounted(every)))
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

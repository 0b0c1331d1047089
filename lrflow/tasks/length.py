"""How long a run is, from the batches of its data, and whether what is said in epochs or samples can be counted."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import CombinedLoader

from lrflow.config import Config
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.fields import uncounted


def count_horizon(config: Config, data: pl.LightningDataModule, devices: int) -> Horizon:
    """How many optimizer steps the run has, from the batches of the data that was set up.

    Args:
        config: `max_epochs`, `max_steps`, `max_samples`, `accumulate_grad_batches`, `limit_train_batches`.
        data: its loaders are already sharded over the devices.
        devices: processes that each draw batches of their own.

    Raises:
        ConfigError: an epoch has no batch, or no length is known.
    """
    trainer = config.trainer
    loader = data.train_dataloader()
    batches, samples = _batches(loader), _samples_per_batch(loader)
    if batches is None and trainer.max_steps is None and trainer.max_samples is None:
        message = "expected a number of steps: the training data has no length"
        raise ConfigError([Problem("trainer.max_steps", message, None)])
    if batches == 0:
        message = f"the training data on {devices} device(s) does not fill a single batch"
        hint = "give more examples, or a smaller batch"
        raise ConfigError([Problem("data.batch_size", message, samples or ..., hint)])
    try:
        return Horizon.count(
            batches=batches,
            devices=devices,
            accumulate=trainer.accumulate_grad_batches,
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            limit_batches=trainer.limit_train_batches or 1.0,
            max_samples=trainer.max_samples,
            samples_per_batch=samples,
        )
    except ValueError as error:
        known = None if samples else "give max_steps or max_epochs, or a loader that has samples_per_batch"
        raise ConfigError([Problem("trainer.max_samples", str(error), trainer.max_samples, known)]) from None


def check_intervals(config: Config, horizon: Horizon) -> None:
    """See that how often a run validates and saves can be counted in its steps.

    Raises:
        ConfigError: names what is in epochs or samples that nobody can count.
    """
    trainer, problems = config.trainer, []
    for key, given in {
        "trainer.val_every": trainer.val_every,
        "trainer.checkpoint.every": trainer.checkpoint.every,
        "sharpness.every": config.sharpness.every,
    }.items():
        if given is None:
            continue
        every = Duration.parse(given)
        if key == "trainer.val_every" and every.unit == "epochs" and (every.value < 1 or every.value.is_integer()):
            continue  # Lightning counts whole epochs and shares of one itself
        try:
            every.steps(horizon)
        except ValueError as error:
            problems.append(Problem(key, str(error), given, uncounted(every)))
    if problems:
        raise ConfigError(problems)


def _batches(loaders: Any) -> int | None:
    """Batches of an epoch as Lightning counts them: of several loaders, those of the longest; None: no end is known."""
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
    try:
        lengths = [len(loader) for loader in combined.flattened]
    except TypeError:
        return None
    return min(lengths) if combined._mode == "min_size" else max(lengths, default=0)


def _samples_per_batch(loader: Any) -> float | None:
    """What a batch of one device holds: as the loader says, or as it was made; None: nobody knows."""
    told = getattr(loader, "samples_per_batch", None), getattr(loader, "batch_size", None)
    made = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return told[0] or told[1] or made

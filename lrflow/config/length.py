"""How long a run is: counted once, from the batches of an epoch, and the same for the plan, the checks and training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrflow.config.config import Config
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Horizon


@dataclass(frozen=True)
class Epoch:
    """An epoch of the training data, as one of the processes sees it.

    Args:
        batches: None where nobody knows how many.
        samples_per_batch: what a batch holds; None where nobody knows.
    """

    batches: int | None
    samples_per_batch: float | None = None


def count_steps(config: Config, epoch: Epoch, processes: int) -> Horizon:
    """How many optimizer steps a run has.

    Args:
        config: `trainer` with `max_epochs`, `max_steps`, `max_samples`, `accumulate_grad_batches` and
            `limit_train_batches`.
        epoch: of its data, already divided among the processes.
        processes: that each draw batches of their own.

    Raises:
        ConfigError: nothing that can be counted ends the run, or not one step fits in.
    """
    trainer = config.trainer
    ends = (epoch.batches, trainer.limit_train_batches if trainer.max_epochs else None)
    if (*ends, trainer.max_steps, trainer.max_samples) == (None,) * 4:
        message = "expected a number of steps or samples: the training data has no length, so an epoch has no end"
        hint = (
            "trainer.max_steps=N, trainer.max_samples=N where a batch's size is known, or "
            "trainer.limit_train_batches=N, which makes an epoch N batches long"
        )
        raise ConfigError([Problem("trainer.max_epochs", message, trainer.max_epochs, hint)])
    try:
        return Horizon.count(
            batches=epoch.batches,
            devices=processes,
            accumulate=trainer.accumulate_grad_batches,
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            limit_batches=trainer.limit_train_batches or 1.0,
            max_samples=trainer.max_samples,
            samples_per_batch=epoch.samples_per_batch,
        )
    except ValueError as error:
        known = (
            None if epoch.samples_per_batch else "give max_steps or max_epochs, or a loader that has samples_per_batch"
        )
        raise ConfigError([Problem("trainer.max_samples", str(error), trainer.max_samples, known)]) from None


def declared_horizon(config: Config) -> Horizon | None:
    """How long the run is as far as the config tells, before data is read; None where it does not tell.

    Raises:
        ConfigError: the run never ends, or there is not one batch to train on.
    """
    own, trainer = config.horizon, config.trainer
    if own.steps is not None:
        return Horizon(own.steps, own.steps_per_epoch, own.samples_per_step)
    if (trainer.max_epochs, trainer.max_steps, trainer.max_samples) == (None, None, None):
        hint = "give max_epochs, max_steps or max_samples"
        problem = Problem("trainer.max_epochs", "the run would never end", None, hint)
        raise ConfigError([problem])
    if trainer.processes is None or (epoch := _declared_epoch(config, trainer.processes)) is None:
        return None
    return count_steps(config, epoch, trainer.processes)


def _declared_epoch(config: Config, processes: int) -> Epoch | None:
    """An epoch of the data as the config describes it; None where it does not.

    Raises:
        ConfigError: it does not have one batch.
    """
    data = config.data
    examples = data.facts.examples if data.facts else None
    if examples is None or data.batch_size is None:
        return None
    left = examples - data.val_size - data.test_size
    if left <= 0:
        held = f" and test_size={data.test_size}" if data.test_size else ""
        message = f"of {examples} examples, val_size={data.val_size}{held} leave none to train on"
        raise ConfigError([Problem("data.val_size", message, data.val_size)])
    share = math.ceil(left / processes)
    if data.batch_size > share:
        message = f"is larger than the {share} training examples" + (" of each device" if processes > 1 else "")
        raise ConfigError([Problem("data.batch_size", message, data.batch_size)])
    batches = share // data.batch_size if data.drop_last else math.ceil(share / data.batch_size)
    return Epoch(batches, data.batch_size)

"""`schedule.batch`: how its batches are made, and the length of a run that has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrflow.config.config import Config
from lrflow.config.schemas.task import OF_A_RUN
from lrflow.config.step_batch import ACCUMULATED, EFFECTIVE, devices_here
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Horizon
from lrflow.schedules.batch_schedule import KEY, compile_batches, described
from lrflow.schedules.horizon import limited
from lrflow.wording import counted, joined

BY = "schedule.batch_by"


@dataclass(frozen=True)
class Epoch:
    """An epoch of the training data in one process.

    Args:
        batches: number of batches; None: unknown.
        samples_per_batch: batch size; None: unknown.
        examples: number of examples, if they are in lrflow's order; None: unknown.
        drop_last: whether an incomplete last batch is left out.
    """

    batches: int | None
    samples_per_batch: float | None = None
    examples: int | None = None
    drop_last: bool = False


def divide_batches(content: dict[str, Any], config: Config, accumulated: int | None) -> list[Problem]:
    """Choose how the batches of `schedule.batch` are made, set what the first of them needs, and return its problems.

    By accumulation, a step accumulates as many batches of `data.batch_size` on each device as it needs. By loader, the
    loader's batches have the size that a step needs. `auto` accumulates if all sizes can be divided so.

    Args:
        content: resolved config, whose batch size and accumulation are set; changed in place.
        config: the same config, typed.
        accumulated: batches per step as the config gives them; None: it does not.
    """
    sizes = config.schedule.sizes
    if not sizes or config.task.name in OF_A_RUN:  # which train nothing
        return []
    per_device, devices = config.data.batch_size, config.trainer.processes or devices_here(config)
    if config.data.effective_batch_size is not None:
        message = f"{KEY} sets the batch of a step"
        return [
            Problem(EFFECTIVE, message, config.data.effective_batch_size, f"leave out one of the two: {EFFECTIVE}=null")
        ]
    if per_device is None:
        hint = "set data.batch_size if the data takes it"
        return [Problem(KEY, "needs data.batch_size, and the data has none", ..., hint)]
    by = config.schedule.batch_by
    if by == "auto":
        by = "accumulation" if all(size % (per_device * devices) == 0 for size in sizes) else "loader"
        content["schedule"]["batch_by"] = by
    if by == "accumulation" and accumulated is not None and accumulated > 1:
        message = f"{KEY} sets it: a step accumulates as many batches as its size needs"
        return [Problem(ACCUMULATED, message, accumulated, f"leave it out, or {BY}=loader")]
    if problem := _indivisible(config, by, devices):
        return [problem]
    if by == "accumulation":
        content["trainer"]["accumulate_grad_batches"] = sizes[0] // (per_device * devices)
    else:
        content["data"]["batch_size"] = sizes[0] // (devices * config.trainer.accumulate_grad_batches)
    return []


def _indivisible(config: Config, by: str, devices: int) -> Problem | None:
    """Return the problem of sizes that cannot be divided among the batches or devices."""
    trainer = config.trainer
    each = devices * (trainer.accumulate_grad_batches if by == "loader" else config.data.batch_size or 1)
    wrong = [size for size in config.schedule.sizes if size % each]
    if not wrong:
        return None
    on = f" x {counted(devices, 'device')}" if devices > 1 else ""
    near = sorted({max(size // each, 1) * each for size in wrong} | {-(-size // each) * each for size in wrong})
    sizes = joined([f"{size}" for size in near], 4)
    if by == "loader":
        times = f" x {trainer.accumulate_grad_batches} accumulated" if trainer.accumulate_grad_batches > 1 else ""
        message = f"cannot be divided exactly among {counted(devices, 'device')}{times}"
        return Problem(KEY, message, wrong[0], f"multiples of {each}, such as {sizes}")
    message = f"is no multiple of {each} = data.batch_size {config.data.batch_size}{on}, which a step accumulates"
    return Problem(KEY, message, wrong[0], f"multiples of {each}, such as {sizes}; or {BY}=loader")


def batch_unit(config: Config, processes: int) -> int | None:
    """Return the samples of a batch on all devices, of which a step accumulates several; None: it does not vary."""
    if not config.schedule.sizes or config.schedule.batch_by != "accumulation" or config.data.batch_size is None:
        return None
    return config.data.batch_size * processes


def count_batches(config: Config, epoch: Epoch, processes: int) -> Horizon:
    """Return the length of a run with `schedule.batch`.

    Args:
        config: of the run.
        epoch: of one process.
        processes: number of processes, each with its own batches.

    Raises:
        ConfigError: the sizes do not fit the data, the devices or the run.
        ValueError: the run would never end, or has no step.
    """
    trainer, per_device = config.trainer, config.data.batch_size
    assert per_device is not None
    if problem := _indivisible(config, config.schedule.batch_by, processes):
        raise ConfigError([problem])
    if epoch.samples_per_batch not in (None, per_device):
        message = f"the loader's batches have {epoch.samples_per_batch:g} samples, and data.batch_size is {per_device}"
        raise ConfigError([Problem(KEY, message, ..., "give the loader batches of data.batch_size")])
    _check_epoch(config, epoch, processes)
    limit, samples, dropped = trainer.train_limit, None, 0
    if config.schedule.batch_by == "accumulation":
        batches = epoch.batches
        if batches is not None and limit is not None:
            batches = limited(batches, limit)
        elif batches is None and isinstance(limit, int):
            batches = limit
        samples = None if batches is None else batches * per_device * processes
    else:
        if epoch.examples is None:
            message = "needs one loader of a data set with a length, in lrflow's order, without a sampler of its own"
            hint = f"{BY}=accumulation, with sizes that are multiples of {per_device * processes}"
            raise ConfigError([Problem(BY, message, "loader", hint)])
        own = epoch.examples
        if limit is not None:
            own = min(own, limited(-(-own // per_device), limit) * per_device)
        samples, dropped = own * processes, trainer.accumulate_grad_batches if epoch.drop_last else 0
    limits = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps, "max_samples": trainer.max_samples}
    return compile_batches(config.schedule.batches, samples, dropped=dropped, **limits)


def _check_epoch(config: Config, epoch: Epoch, processes: int) -> None:
    """Raise an error if a batch would be larger than the training data: it could never be full."""
    most = epoch.examples
    if most is None and epoch.batches is not None:
        most = epoch.batches * (config.data.batch_size or 1)
    large = [size for size in config.schedule.sizes if most is not None and size > most * processes]
    if large and most is not None:
        message = f"is more than an epoch of the training data, {counted(most * processes, 'example')}"
        raise ConfigError([Problem(KEY, message, large[0], f"sizes up to {most * processes}, or more data")])


def describe_batches(config: Config, horizon: Horizon) -> str:
    """Return the line about the batches of a run: `batch 64, from step 1,563 on 256 (by accumulation of 64)`."""
    assert horizon.batch is not None
    batches = described(horizon.batch.changes(horizon.steps))
    if config.schedule.batch_by == "accumulation":
        how = f"by accumulation of batches of {config.data.batch_size}"
    else:
        how = "by the loader, whose batches change their size"
    lr = "" if config.scaling.rule in ("linear", "sqrt") else "; the LR does not follow it (scaling=none)"
    return f"batch {batches}, {how}{lr}"

"""Length of a run in optimizer steps, and durations that shrink with a smoke run."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.batch_schedule import Epoch, count_batches
from lrflow.config.config import Config
from lrflow.config.targets import locate
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.batch_schedule import compile_batches
from lrflow.schedules.time import TooLongError


def count_steps(config: Config, epoch: Epoch, processes: int) -> Horizon:
    """Return the length of a run in optimizer steps.

    Args:
        config: config with `max_epochs`, `max_steps`, `max_samples`, `accumulate_grad_batches` and
            `limit_train_batches` or `overfit_batches` in `trainer`.
        epoch: epoch of one process, after the data was divided among the processes.
        processes: number of processes, each with its own batches.

    Raises:
        ConfigError: no limit ends the run after a known number of steps, or the run has less than one step.
    """
    trainer = config.trainer
    if isinstance(share := trainer.overfit_batches, float):
        _check_share(share, epoch)
    effective = config.data.effective_batch_size
    if effective is not None and epoch.batches is not None and epoch.batches < trainer.accumulate_grad_batches:
        most = epoch.batches * (effective // trainer.accumulate_grad_batches)
        message = "is more than an epoch of the training data"
        hint = f"data.effective_batch_size={most} or less"
        raise ConfigError([Problem("data.effective_batch_size", message, effective, hint)])
    ends = (epoch.batches, trainer.train_limit if trainer.max_epochs else None)
    if (*ends, trainer.max_steps, trainer.max_samples) == (None,) * 4:
        message = "expected a number of steps or samples: the training data has no length, so an epoch has no end"
        hint = (
            "trainer.max_steps=N, trainer.max_samples=N where a batch's size is known, or "
            "trainer.limit_train_batches=N, which makes an epoch N batches long"
        )
        raise ConfigError([Problem("trainer.max_epochs", message, trainer.max_epochs, hint)])
    try:
        if config.schedule.batch is not None:
            return count_batches(config, epoch, processes)
        return Horizon.count(
            batches=epoch.batches,
            devices=processes,
            accumulate=trainer.accumulate_grad_batches,
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            limit_batches=trainer.train_limit or 1.0,
            max_samples=trainer.max_samples,
            samples_per_batch=epoch.samples_per_batch,
        )
    except TooLongError as error:
        given = {"max_steps": trainer.max_steps, "max_epochs": trainer.max_epochs, "max_samples": trainer.max_samples}
        key = next(key for key, value in given.items() if value is not None)
        raise ConfigError([Problem(f"trainer.{key}", str(error), given[key])]) from None
    except ValueError as error:
        known = (
            None if epoch.samples_per_batch else "give max_steps or max_epochs, or a loader that has samples_per_batch"
        )
        raise ConfigError([Problem("trainer.max_samples", str(error), trainer.max_samples, known)]) from None


def _check_share(share: float, epoch: Epoch) -> None:
    """Check that a share of an epoch is at least one batch.

    Raises:
        ConfigError: it is not, or the epoch has no length.
    """
    if epoch.batches is None:
        message, hint = "is a share of an epoch, and the training data has no length", "give a number of batches"
    elif int(epoch.batches * share) < 1:
        message, hint = f"is less than one of the {epoch.batches} batches of an epoch", "trainer.overfit_batches=1"
    else:
        return
    raise ConfigError([Problem("trainer.overfit_batches", message, share, hint)])


def declared_horizon(config: Config) -> Horizon | None:
    """Return the length of the run as the config declares it, without reading data; None if it depends on the data.

    Raises:
        ConfigError: the run never ends, or there is no training batch.
    """
    own, trainer = config.horizon, config.trainer
    if own.steps is not None and config.schedule.batch is not None:
        return compile_batches(config.schedule.batches, max_steps=own.steps)
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
    """Return an epoch of the data as the config declares it; None if `data.facts` or the batch size is not set.

    Raises:
        ConfigError: the epoch has no batch.
    """
    data = config.data
    examples = data.facts.examples if data.facts else None
    if examples is None or data.batch_size is None:
        return None
    held_out = data.facts.held_out if data.facts else None
    left = examples - (data.val_size + data.test_size if held_out is None else held_out)
    if left <= 0:
        held = f" and test_size={data.test_size}" if data.test_size else ""
        message = f"of {examples} examples, val_size={data.val_size}{held} leave none to train on"
        raise ConfigError([Problem("data.val_size", message, data.val_size)])
    share = math.ceil(left / processes)
    if data.batch_size > share:
        message = f"is larger than the {share} training examples" + (" of each device" if processes > 1 else "")
        raise ConfigError([Problem("data.batch_size", message, data.batch_size)])
    batches = share // data.batch_size if data.drop_last else math.ceil(share / data.batch_size)
    return Epoch(batches, data.batch_size, share, data.drop_last)


DURATIONS = (
    "warmup", "cooldown", "hold", "delay", "start", "over", "every", "unfreeze", "unfreeze_warmup", "freeze_after"
)  # fmt: skip
"""Keys of durations in a schedule, in layers and in their rules; those of a shape follow from its signature."""


INTERVALS = ("every", "period", "timescale", "rise")
"""Keys of durations that are one step or more."""

LEAST_INTERVAL = 0.01
"""Share of a short run that is less than a step, so that an interval becomes one step."""


def shorten(content: DictConfig, full_run: Config | None, why: str = "fast=true", most: float = 0.5) -> str | None:
    """Replace durations in steps, epochs and samples by their fractions of the full run, which shrink with the run.

    If the schedule's shape takes its timescale from the warmup, the warmup becomes one step. Of batch sizes the first
    and the last remain, since a run of two steps has no more.

    Args:
        content: config of the short run; changed in place.
        full_run: the same run without `fast=true`; None: it is invalid.
        why: what makes the run short.
        most: largest share of the run that a duration may be, and where the last batch size begins; below 0.5, all
            durations that are shares are limited.

    Returns:
        One line that lists the changes; None without changes.
    """
    changes = []
    for node, key, name in _places(content):
        least = name == "schedule.warmup" and isinstance(node, DictConfig) and _needs_warmup(node)
        if change := _shorten(node, key, full_run, least, most):
            changes.append(f"{name} {change}")
    if change := _shorten_batches(_given(content, "schedule"), most):
        changes.append(f"schedule.batch {change}")
    return f"{why}: the run is shorter, and so are {', '.join(changes)}" if changes else None


def makes_groups_in_time(config: Config) -> bool:
    """Return whether an object makes the parameter groups from durations that do not scale with the run.

    Whether these durations fit into the run depends on the number of layers, which only the object knows.
    """
    given = config.layers.plain()
    return "_target_" in given and any(
        (duration := _duration(given.get(key))) is not None and duration.unit != "fraction" for key in DURATIONS
    )


def _places(content: DictConfig) -> Iterator[tuple[DictConfig | ListConfig, str | int, str]]:
    """Yield each duration in the config: the node that holds it, its key or index in the node, and its full key."""
    yield from _of_schedule(_given(content, "schedule"), "schedule")
    scalars = _given(content, "scalars")
    for name in map(str, scalars) if isinstance(scalars, DictConfig) else ():
        yield from _of_schedule(_given(scalars, name), f"scalars.{name}")
    average = _given(content, "average")
    if isinstance(average, DictConfig):
        yield from ((average, key, f"average.{key}") for key in ("start", "every", "over", "last") if key in average)
    layers = _given(content, "layers")
    if isinstance(layers, DictConfig):
        yield from ((layers, key, f"layers.{key}") for key in DURATIONS if key in layers)
        rules = _given(layers, "rules")
        for index, rule in enumerate(rules if isinstance(rules, ListConfig) else ()):
            name = f"layers.rules[{index}]"
            if not isinstance(rule, DictConfig):
                continue
            yield from ((rule, key, f"{name}.{key}") for key in DURATIONS if key in rule)
            yield from _of_schedule(_given(rule, "schedule"), f"{name}.schedule")


def _of_schedule(schedule: Any, name: str) -> Iterator[tuple[DictConfig | ListConfig, str | int, str]]:
    if not isinstance(schedule, DictConfig):
        return
    yield from ((schedule, key, f"{name}.{key}") for key in DURATIONS if key in schedule)
    yield from _of_shape(_given(schedule, "shape"), f"{name}.shape")
    also = _given(schedule, "also")
    for setting in map(str, also) if isinstance(also, DictConfig) else ():
        yield from _of_schedule(_given(also, setting), f"{name}.also.{setting}")


def _of_shape(shape: Any, name: str) -> Iterator[tuple[DictConfig | ListConfig, str | int, str]]:
    """Yield the durations of a shape, and of the shapes and schedules inside it: factors of a product, pieces."""
    if isinstance(shape, ListConfig):
        for index in range(len(shape)):
            yield from _of_shape(_given(shape, index), f"{name}[{index}]")
    elif isinstance(shape, DictConfig) and "shape" in shape and "_target_" in shape:
        yield from _of_schedule(shape, name)
    elif isinstance(shape, DictConfig):
        own = _durations_of(shape) if "_target_" in shape else ("duration",)
        yield from ((shape, key, f"{name}.{key}") for key in own if key in shape)
        for key in map(str, shape):
            yield from _of_shape(_given(shape, key), f"{name}.{key}")


def _shorten_batches(schedule: Any, start: float) -> str | None:
    """Leave the first batch size, and the last one from a share of the run on; return the change."""
    sizes = _given(schedule, "batch") if isinstance(schedule, DictConfig) else None
    if not isinstance(sizes, ListConfig) or len(sizes) < 2:
        return None
    if not all(isinstance(size, ListConfig) and len(size) == 2 for size in sizes):
        return None  # the checks report it
    last = [f"{100 * start:g}%", sizes[-1][1]]
    if len(sizes) == 2 and str(sizes[-1][0]) == last[0]:
        return None
    schedule["batch"] = [list(sizes[0]), last]
    return f"-> [{', '.join(f'[{begin}, {size}]' for begin, size in schedule['batch'])}]"


def _given(node: DictConfig | ListConfig, key: Any) -> Any:
    """Return what a config that was not checked yet gives a key; None if that cannot be resolved."""
    try:
        return node.get(key)
    except OmegaConfBaseException:  # the checks report it
        return None


def _durations_of(shape: DictConfig) -> Collection[str]:
    """Return the parameters of a shape that are annotated as durations; other strings may look like durations."""
    try:
        parameters = inspect.signature(locate(str(_given(shape, "_target_")))).parameters.values()
    except (ConfigError, TypeError, ValueError):  # the checks report it
        return ()
    return [one.name for one in parameters if re.search(r"\bDuration(Like)?\b", str(one.annotation))]


def _duration(value: Any) -> Duration | None:
    try:
        return Duration.parse(value)
    except (ValueError, TypeError):
        return None


def _shorten(
    node: DictConfig | ListConfig, key: str | int, full_run: Config | None, least: bool, most: float
) -> str | None:
    """Shorten one duration; return its old and new value as text, or None if it does not change.

    Args:
        node: node that holds the duration; changed in place.
        key: key or index of the duration in the node.
        full_run: the same run without `fast=true`; None: it is invalid.
        least: set the duration to one step.
        most: largest share of the run that the duration may be, as in `shorten`.
    """
    value = _given(node, key)
    duration, note = _duration(value), ""
    if duration is None or not duration.value:
        return None
    short = duration
    if least:
        short = Duration(1, "steps")
    elif duration.unit != "fraction":
        share = _share(duration, full_run)
        if share is None:
            if key not in ("warmup", "cooldown"):
                return None
            share, note = 0.1, " (a guess: the length of the whole run is unknown before its data is read)"
        share = float(f"{min(share, most):.4g}")
        whole = key in INTERVALS and share < LEAST_INTERVAL
        short = Duration(1, "steps") if whole else Duration(share, "fraction")
    elif most < duration.value and (isinstance(node, ListConfig) or (most < 0.5 and key in DURATIONS)):
        short = Duration(most, "fraction")
    if short == duration:
        return None
    OmegaConf.update(node, str(key), str(short), force_add=True)
    return f"{value} -> {short}{note}"


def _share(duration: Duration, full_run: Config | None) -> float | None:
    """Return a duration as a fraction of the full run; None if it is unknown."""
    if full_run is None:
        return None
    ends = full_run.trainer
    horizon = declared_horizon(full_run)
    if horizon is None and ends.max_steps is not None:
        horizon = Horizon(ends.max_steps)
    if horizon is None and duration.unit == "epochs" and ends.max_epochs is not None:
        return float(duration.value) / ends.max_epochs
    try:
        return None if horizon is None else duration.steps(horizon) / horizon.steps
    except ValueError:
        return None


def _needs_warmup(schedule: DictConfig) -> bool:
    """Return whether the shape takes its timescale from the warmup, which then needs at least one step."""
    shape = _given(schedule, "shape")
    return isinstance(shape, DictConfig) and "timescale" in shape and _given(shape, "timescale") is None

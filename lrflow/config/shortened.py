"""fast=true: durations of schedules and layers that were meant for the whole run shrink with it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrflow.config.config import Config
from lrflow.config.length import declared_horizon
from lrflow.config.targets import locate
from lrflow.errors import ConfigError
from lrflow.schedules import Duration, Horizon

DURATIONS = ("warmup", "cooldown", "hold", "every", "unfreeze", "unfreeze_warmup")
"""Keys of durations in a schedule, in layers and in their rules; a shape's own are those that its parameters say."""


def shorten(content: DictConfig, whole: Config | None) -> str | None:
    """Write durations in steps, epochs and samples as the shares that they have of the whole run.

    Shares shrink with the run; a share of a warmup that would be less than a step becomes one where a shape is to be as
    long as it.

    Args:
        content: of the short run; changed in place.
        whole: the same without `fast=true`; None: it cannot be run.

    Returns:
        What became of each, in a line; None: nothing was written.
    """
    changes = []
    for node, key, name in _places(content):
        least = name == "schedule.warmup" and _needs_warmup(node)
        if change := _shorten(node, key, whole, least):
            changes.append(f"{name} {change}")
    return f"fast=true: the run is shorter, and so are {', '.join(changes)}" if changes else None


def makes_groups_in_time(config: Config) -> bool:
    """Whether an object makes the layers' groups from durations that the length of the run does not change.

    Only the object knows how many layers there are, and so whether they fit.
    """
    given = config.layers.plain()
    return "_target_" in given and any(
        (duration := _duration(given.get(key))) is not None and duration.unit != "fraction" for key in DURATIONS
    )


def _places(content: DictConfig) -> Iterator[tuple[DictConfig, str, str]]:
    """Every place of a duration: its node, its key there and its name in the config."""
    yield from _of_schedule(content.get("schedule"), "schedule")
    layers = content.get("layers")
    if isinstance(layers, DictConfig):
        yield from ((layers, key, f"layers.{key}") for key in DURATIONS if key in layers)
        for index, rule in enumerate(layers.get("rules") or ()):
            name = f"layers.rules[{index}]"
            yield from ((rule, key, f"{name}.{key}") for key in DURATIONS if key in rule)
            yield from _of_schedule(rule.get("schedule"), f"{name}.schedule")


def _of_schedule(schedule: Any, name: str) -> Iterator[tuple[DictConfig, str, str]]:
    if not isinstance(schedule, DictConfig):
        return
    yield from ((schedule, key, f"{name}.{key}") for key in DURATIONS if key in schedule)
    shape = schedule.get("shape")
    if isinstance(shape, DictConfig):
        yield from ((shape, key, f"{name}.shape.{key}") for key in _durations_of(shape) if key in shape)
    for setting, moved in (schedule.get("also") or {}).items():
        yield from _of_schedule(moved, f"{name}.also.{setting}")


def _durations_of(shape: DictConfig) -> Collection[str]:
    """The parameters of a shape that take a duration, by their annotations: other text may look like one."""
    try:
        parameters = inspect.signature(locate(str(shape.get("_target_")))).parameters.values()
    except (ConfigError, TypeError, ValueError):  # which the checks report
        return ()
    return [one.name for one in parameters if re.search(r"\bDuration(Like)?\b", str(one.annotation))]


def _duration(value: Any) -> Duration | None:
    try:
        return Duration.parse(value)
    except (ValueError, TypeError):
        return None


def _shorten(node: DictConfig, key: str, whole: Config | None, least: bool) -> str | None:
    """Write one duration anew; gives what it was and is, or None where it stays.

    Args:
        node: that holds it.
        key: where.
        whole: the same run without `fast=true`; None: it cannot be run.
        least: whether it is to be one step, the least that there is.
    """
    value: Any = node.get(key)
    duration, note = _duration(value), ""
    if duration is None or not duration.value:
        return None
    short = duration
    if least:
        short = Duration(1, "steps")
    elif duration.unit != "fraction":
        share = _share(duration, whole)
        if share is None:
            if key not in ("warmup", "cooldown"):
                return None
            share, note = _GUESS, " (a guess: nobody knows the length of the whole run before its data are read)"
        short = Duration(min(share, 0.5), "fraction")
    if short == duration:
        return None
    OmegaConf.update(node, key, str(short), force_add=True)
    return f"{value} -> {short}{note}"


_GUESS = 0.1
"""The share of a warmup or cooldown where nobody knows it."""


def _share(duration: Duration, whole: Config | None) -> float | None:
    """What share of the whole run a duration is; None where nobody knows."""
    if whole is None:
        return None
    ends = whole.trainer
    horizon = declared_horizon(whole)
    if horizon is None and ends.max_steps is not None:
        horizon = Horizon(ends.max_steps)
    if horizon is None and duration.unit == "epochs" and ends.max_epochs is not None:
        return float(duration.value) / ends.max_epochs
    try:
        return None if horizon is None else duration.steps(horizon) / horizon.steps
    except ValueError:
        return None


def _needs_warmup(schedule: DictConfig) -> bool:
    """Whether the shape is to be as long as the warmup, of which a short run may have less than a step."""
    shape = schedule.get("shape")
    return isinstance(shape, DictConfig) and "timescale" in shape and shape.get("timescale") is None

"""fast=true: durations of schedules and layers that were meant for the whole run shrink with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrflow.config.config import Config
from lrflow.config.length import declared_horizon
from lrflow.schedules import Duration, Horizon

log = logging.getLogger("lrflow")

DURATIONS = ("warmup", "cooldown", "hold", "every", "unfreeze", "unfreeze_warmup")
"""Keys of durations, which may be whole numbers of steps; under other keys only text is surely one."""


def shorten(content: DictConfig, whole: Config | None) -> bool:
    """Write durations in steps, epochs and samples as the shares that they have of the whole run.

    Shares shrink with the run; a share of a warmup that would be less than a step becomes one where a shape is to be as
    long as it. One line says what became of each.

    Args:
        content: of the short run; changed in place.
        whole: the same without `fast=true`; None: it cannot be run.

    Returns:
        whether anything was written.
    """
    told: list[str] = []
    for node, key, name in _places(content):
        least = name == "schedule.warmup" and _needs_warmup(node)
        _shorten(node, key, name, whole, told, least)
    if told:
        log.warning("fast=true: the run is shorter, and so are %s", ", ".join(told))
    return bool(told)


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
        yield from ((shape, str(key), f"{name}.shape.{key}") for key, value in shape.items() if isinstance(value, str))
    for setting, moved in (schedule.get("also") or {}).items():
        yield from _of_schedule(moved, f"{name}.also.{setting}")


def _duration(value: Any) -> Duration | None:
    try:
        return Duration.parse(value)
    except (ValueError, TypeError):
        return None


def _shorten(node: DictConfig, key: str, name: str, whole: Config | None, told: list[str], least: bool = False) -> None:
    value: Any = node.get(key)
    duration = _duration(value)
    if duration is None or not duration.value:
        return
    if duration.unit != "fraction":
        share = _share(duration, whole)
        if share is None:
            if key not in ("warmup", "cooldown"):
                return
            share = 0.1  # of a run whose length nobody knows before its data are read
        duration = Duration(min(share, 0.5), "fraction")
    written = "1 step" if least else str(duration)
    if written != str(value):
        told.append(f"{name} {value} -> {written}")
        OmegaConf.update(node, key, written, force_add=True)


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

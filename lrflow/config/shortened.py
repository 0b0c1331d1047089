"""fast=true: durations of the schedule that were meant for the whole run shrink with it."""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrflow.config.config import Config
from lrflow.config.length import declared_horizon
from lrflow.schedules import Duration, Horizon

log = logging.getLogger("lrflow")

TOP = ("warmup", "cooldown", "hold")
"""What a schedule has of durations, which may be whole numbers of steps; in a shape only text is surely one."""


def shorten(content: DictConfig, whole: Config | None) -> bool:
    """Write a schedule's durations in steps, epochs and samples as the shares that they have of the whole run.

    Shares shrink with the run; a share of a warmup that would be less than a step becomes one where a shape is to be as
    long as it. One line says what became of each.

    Args:
        content: of the short run; changed in place.
        whole: the same without `fast=true`; None: it cannot be run.

    Returns:
        whether anything was written.
    """
    schedule = content.get("schedule")
    if not isinstance(schedule, DictConfig):
        return False
    told: list[str] = []
    for name in TOP:
        _shorten(schedule, name, f"schedule.{name}", whole, told, least=name == "warmup" and _needs_warmup(schedule))
    shape = schedule.get("shape")
    if isinstance(shape, DictConfig):
        for name in [str(key) for key, value in shape.items() if isinstance(value, str)]:
            _shorten(shape, name, f"schedule.shape.{name}", whole, told)
    if told:
        log.warning("fast=true: the run is shorter, and so are %s", ", ".join(told))
    return bool(told)


def _shorten(node: DictConfig, key: str, name: str, whole: Config | None, told: list[str], least: bool = False) -> None:
    value: Any = node.get(key)
    try:
        duration = Duration.parse(value)
    except (ValueError, TypeError):
        return
    if not duration.value:
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

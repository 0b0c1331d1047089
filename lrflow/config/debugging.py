"""Runs that look for mistakes: `fast=true`, `trainer.fast_dev_run` (one batch) and `trainer.overfit_batches`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.config import Config
from lrflow.config.length import declared_horizon, makes_groups_in_time, shorten
from lrflow.config.schemas.find import RangeFind
from lrflow.errors import ConfigError, Problem
from lrflow.launch import is_one_of_several
from lrflow.limits import is_whole

FAST_DEV_RUN = "trainer.fast_dev_run"

_REMARK = f"{FAST_DEV_RUN}: one batch of training, validation and test; nothing is written"

_EVERY = f"{FAST_DEV_RUN}: every=1 for all optimizers, so that each makes the step"

_FIND_NOT_SHORTENED = "fast=true: the search for the LR is not shortened; find.sweeps=1 find.steps=40 make it short"

_PEAK = {"_target_": "lrflow.schedules.Schedule", "shape": {"_target_": "lrflow.schedules.Constant"}}

_OF_BATCHES = ("limit_train_batches", "limit_val_batches")
_LENGTH = {"max_epochs": 1, "max_steps": None, "max_samples": None, "min_epochs": None, "min_steps": None}
_LIMITS = {"limit_train_batches": 1, "limit_val_batches": 1, "max_time": None, "lightning.limit_test_batches": 1}


def smoke_run(
    content: DictConfig, is_fast: bool, make: Callable[[], Config], full_run: Callable[[], Config | None] | None
) -> Config:
    """Return the checked config of a run, with durations that shrink with it if it is a smoke run.

    Args:
        content: composed config; changed in place if it is that of a smoke run.
        is_fast: whether it was composed with `fast=true`.
        make: returns the checked config.
        full_run: returns the config of the same run if it were no smoke run, or None if that is invalid; None: unknown.

    Raises:
        ConfigError: every problem of the config.
    """
    trainer: Any = content.get("trainer")
    if isinstance(trainer, DictConfig) and trainer.get("fast_dev_run") is True:
        remarks = _limit_to_one_batch(content)
        config = _with_one_step(content, make, full_run)
        config.remarks.extend(remarks)
        return config
    if not is_fast:
        return make()
    if isinstance(trainer, DictConfig) and trainer.get("overfit_batches") is not None:
        _lift_limits(trainer, full_run)
    config = _shortened(content, make, full_run, "fast=true", 0.5)
    if _searches(config) and isinstance(config.find, RangeFind):
        config.remarks.append(_FIND_NOT_SHORTENED)
    return config


def _lift_limits(trainer: DictConfig, full_run: Callable[[], Config | None] | None) -> None:
    """Leave `fast=true` without limits of its own, where `trainer.overfit_batches` is the limit."""
    full = full_run() if full_run else None
    for key in _OF_BATCHES:
        if full is not None and getattr(full.trainer, key) is None:  # else it was given, and is reported
            trainer[key] = None


def _limit_to_one_batch(content: DictConfig) -> list[str]:
    """Change a composed config to a run of one step, and return the remarks on it."""
    remarks = [_REMARK]
    for key, value in {**_LENGTH, **_LIMITS}.items():
        if not (key == "limit_val_batches" and content.trainer.get(key) == 0):  # no validation at all
            OmegaConf.update(content, f"trainer.{key}", value, force_add=True)
    if content.trainer.get("devices") == "auto":
        content.trainer.devices = 1
    for optimizer in _optimizers(content):
        try:
            every = optimizer.get("every")
        except OmegaConfBaseException:  # reported when the config is resolved
            continue
        if is_whole(every) and every > 1:  # it would make no step
            optimizer.every = 1
            remarks = [_REMARK, _EVERY]
    return remarks


def _optimizers(content: DictConfig) -> Iterator[DictConfig]:
    """Yield the node of the optimizer and those of its routes."""
    main: Any = content.get("optimizer")
    routes: Any = main._get_node("routes", validate_access=False) if isinstance(main, DictConfig) else None
    nodes = [routes._get_node(name) for name in routes] if isinstance(routes, DictConfig) and routes else []
    yield from (node for node in (main, *nodes) if isinstance(node, DictConfig))


def _with_one_step(
    content: DictConfig, make: Callable[[], Config], full_run: Callable[[], Config | None] | None
) -> Config:
    """Return the config of a run of one step, for which many schedules have no room: then the LR is its peak."""
    try:
        return _shortened(content, make, full_run, FAST_DEV_RUN, 0.4)  # of one step, that rounds down to none
    except ConfigError as error:
        of_schedules = all("schedule" in problem.key for problem in error.problems)
        if not of_schedules or full_run is None or full_run() is None:  # the schedule itself is wrong
            raise
    OmegaConf.update(content, "schedule", _PEAK, merge=False)
    rules = content.layers.get("rules") if isinstance(content.layers, DictConfig) else None
    for rule in rules or ():
        if isinstance(rule, DictConfig) and "schedule" in rule:
            rule.schedule = None
    config = make()
    config.remarks.append(f"{FAST_DEV_RUN}: one step has no room for the schedule, so the LR is its peak")
    return config


def _shortened(
    content: DictConfig, make: Callable[[], Config], full_run: Callable[[], Config | None] | None, why: str, most: float
) -> Config:
    try:
        config = make()
    except ConfigError as error:
        if not any(problem.key.startswith(("schedule", "layers", "average")) for problem in error.problems):
            raise
    else:
        if declared_horizon(config) is not None and not makes_groups_in_time(config):
            return config
    remark = shorten(content, full_run() if full_run else None, why, most)
    config = make()
    config.remarks.extend([remark] if remark else [])
    return config


def makes_short_runs(config: Config) -> bool:
    """Return whether the task makes short runs of its own before or beside the run: a search for the LR, or rungs."""
    annealed = config.trial is not None and config.trial.pruner != "none" and config.trial.pruning.rungs == "annealed"
    return _searches(config) or annealed


def _searches(config: Config) -> bool:
    return config.task.name == "find" or config.finds_lr or config.find.check


def check_debugging(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting that contradicts `trainer.fast_dev_run` or `trainer.overfit_batches`."""
    trainer = config.trainer
    if trainer.fast_dev_run:
        yield from _check_fast_dev_run(config)
    if (share := trainer.overfit_batches) is None:
        return
    if makes_short_runs(config):
        message = "a search for the LR and short runs of a sweep train on all data"
        yield Problem("trainer.overfit_batches", message, share, "leave it out, and give optimizer.lr a number")
    for key in _OF_BATCHES:
        value = getattr(trainer, key)
        if value is not None and not trainer.fast_dev_run:
            message = f"trainer.overfit_batches={share} limits training and validation to the same batches"
            yield Problem(f"trainer.{key}", message, value, f"trainer.{key}=null")


def _check_fast_dev_run(config: Config) -> Iterator[Problem]:
    def contradicts(key: str, value: Any, why: str, hint: str) -> Problem:
        return Problem(key, f"{FAST_DEV_RUN} {why}", value, hint)

    if config.task.name not in ("train", "plan"):
        yield contradicts("task", config.task.name, "is a run of training", "task=train, or leave it out")
    elif makes_short_runs(config):
        key, value = ("optimizer.lr", "auto") if config.finds_lr else ("find.check", config.find.check)
        yield contradicts(key, value, "makes one step, and a search for the LR many", "leave out one of them")
    if config.trainer.overfit_batches is not None:
        value = config.trainer.overfit_batches
        yield contradicts("trainer.overfit_batches", value, "has one batch and one step", "leave out one of them")
    if config.resume.source is not None:
        yield contradicts("resume.from", config.resume.source, "continues no run, since it saves none", "leave it out")
    if config.horizon.steps is not None:
        yield contradicts("horizon.steps", config.horizon.steps, "has one step", "leave out one of them")
    if config.trainer.processes != 1 and not is_one_of_several():
        key = "num_nodes" if config.trainer.num_nodes > 1 else "devices"
        why = "writes no config, which further processes would read"
        yield contradicts(f"trainer.{key}", getattr(config.trainer, key), why, f"trainer.{key}=1, or use torchrun")
    if config.trainer.profiler is not None:
        message = "writes no files, such as a profile"
        yield contradicts("trainer.profiler", config.trainer.profiler, message, "fast=true trainer.profiler=...")


def refused_in_sweeps(config: Config) -> list[Problem]:
    """Return a problem if a job of a sweep would write no files."""
    if not config.trainer.fast_dev_run:
        return []
    message = "it writes no files, and a sweep reads its results from the files of its runs"
    return [Problem(FAST_DEV_RUN, message, True, "fast=true makes short runs")]

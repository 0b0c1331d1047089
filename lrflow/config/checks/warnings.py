"""Warnings before step 0: settings that are valid, but have no effect or probably another one than was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lrflow.config.checks.metrics import unlikely_settings
from lrflow.config.checks.nodes import may_be_number
from lrflow.config.composition.overrides import Override
from lrflow.config.config import Config
from lrflow.config.origins import short_path
from lrflow.config.schemas.callbacks import EarlyStopping
from lrflow.config.schemas.find import StabilityFind
from lrflow.config.schemas.health import OwnResponse
from lrflow.config.schemas.objects import Feedback, Schedule, ScheduledSetting
from lrflow.config.schemas.task import OF_A_RUN
from lrflow.config.targets import optimizer_traits, takes
from lrflow.metric import is_validation
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.curve import sampled
from lrflow.wording import counted

_STRETCHES = {
    "warmup": ("warmup_start", "warmup_shape", "warmup_ends_at", "warmup_mode", "shape_from"),
    "cooldown": ("cooldown_shape",),
    "hold": ("hold_part",),
    "delay": (),
}
"""Settings of a schedule that need a duration, by the duration."""


WORTH_A_WARNING = 0.9
"""Share of the peak LR that a schedule reaches without a warning, if it may stay below the peak."""


def warnings_before_start(config: Config, horizon: Horizon) -> list[str]:
    """Return every warning that config and length of a run give rise to, one line each.

    Args:
        config: config of the run.
        horizon: its length.
    """
    return list(dict.fromkeys([*config.doubts, *_found(config, horizon)]))


def _found(config: Config, horizon: Horizon) -> Iterator[str]:
    yield from unlikely_settings(config, horizon)
    yield from unused_keys(config)
    yield from _of_facts(config)
    yield from _of_texts(config)
    if config.choices.get("fast") == "on":  # its length is not that of the run
        return
    yield from _of_schedule(config.schedule, "schedule", horizon)
    for index, rule in enumerate(config.layers.rules):
        key = f"layers.rules[{index}]"
        for name in ("unfreeze", "unfreeze_warmup", "freeze_after"):
            yield from _of_duration(getattr(rule, name), f"{key}.{name}", horizon)
        if rule.schedule:
            yield from _of_schedule(rule.schedule, f"{key}.schedule", horizon)
    yield from _of_trainer(config)
    yield from _of_length(config, horizon)
    yield from _of_health(config, horizon)


def _of_schedule(schedule: Schedule | ScheduledSetting, key: str, horizon: Horizon) -> Iterator[str]:
    fields = type(schedule).model_fields
    for stretch, needing in _STRETCHES.items():
        duration: Duration | None = getattr(schedule, stretch, None)
        yield from _of_duration(duration, f"{key}.{stretch}", horizon)
        for name in needing if stretch in fields else ():
            if name not in fields:
                continue
            given, usual = getattr(schedule, name), fields[name].default
            if not (duration and duration.value) and given not in (usual, None):
                yield f"{key}.{name}={given} has no effect without {key}.{stretch}"
    if not isinstance(schedule, Schedule):
        return
    if schedule.floor == 1:
        yield f"{key}.floor=1 is the peak itself: after the warmup the LR is constant"
    curve = schedule.curve(key)
    if curve.may_stay_below and not curve.check(horizon, key):
        highest = float(curve(sampled(horizon.steps, 1 << 16), horizon).max())
        if highest < WORTH_A_WARNING:
            yield f"{key} stays below the peak LR: the highest LR is {100 * highest:.3g}% of optimizer.lr"
    for name, setting in (schedule.also or {}).items():
        if setting is not None:
            yield from _of_schedule(setting, f"{key}.also.{name}", horizon)


def _of_duration(duration: Duration | None, key: str, horizon: Horizon) -> Iterator[str]:
    """Yield a warning for a duration of less than one step, or one that was written as a bare 1."""
    if duration is None or not duration.value:
        return
    if _is_bare_one(duration):
        yield _of_bare_one(key)
    elif _steps(duration, horizon) == 0:
        yield f"{key}={duration} is less than one step (of {horizon.steps:,}), so it has no effect"


def _is_bare_one(duration: Duration) -> bool:
    return str(duration.written) == "1"


def _of_bare_one(key: str) -> str:
    return f"{key}=1 is one step: write '1 step' if it is meant, else '1 epoch' or a share of the run, such as 1%"


def _steps(duration: Duration, horizon: Horizon) -> int | None:
    try:
        return duration.steps(horizon)
    except ValueError:  # the length of an epoch is unknown
        return None


def _of_trainer(config: Config) -> Iterator[str]:
    trainer = config.trainer
    typed = {Override.read(text).key for text in config.overrides}
    key = "trainer.gradient_clip_algorithm"
    if trainer.gradient_clip_val is None and (trainer.gradient_clip_algorithm != "norm" or key in typed):
        yield f"{key}={trainer.gradient_clip_algorithm} has no effect without trainer.gradient_clip_val"
    if trainer.max_time is None:
        for name in ("at_max_time", "max_time_cooldown"):
            if f"trainer.{name}" in typed:
                yield f"trainer.{name}={getattr(trainer, name)} has no effect without trainer.max_time"
    elif trainer.at_max_time == "stop" and "trainer.max_time_cooldown" in typed:
        yield f"trainer.max_time_cooldown={trainer.max_time_cooldown} has no effect with trainer.at_max_time=stop"
    for name, node in config.callbacks.named.items():
        key = f"callbacks.{name}.then_for"
        if isinstance(node, EarlyStopping) and node.then == "stop" and key in typed:
            yield f"{key}={node.then_for} has no effect with callbacks.{name}.then=stop"
    if trainer.limit_val_batches == 0 and "trainer.val_every" in typed:
        yield f"trainer.val_every={trainer.val_every} has no effect with trainer.limit_val_batches=0"


def _of_length(config: Config, horizon: Horizon) -> Iterator[str]:
    """Yield a warning for each interval and patience that is longer than the run."""
    every = config.sharpness_every
    if every is not None and (steps := _steps(every, horizon)) is not None and steps >= horizon.steps:
        run = counted(horizon.steps, "step")
        yield f"sharpness.every is {every}, but the run has only {run}: it is measured once at most"
    feedback = config.feedback
    if not isinstance(feedback, Feedback):
        return
    reads_validation = is_validation(str(feedback.monitor))
    between = config.trainer.val_every if reads_validation else feedback.every or Duration(1, "epochs")
    if feedback.monitor is None or (steps := _steps(between, horizon)) is None:
        return
    readings = horizon.steps // max(steps, 1)
    if not readings:
        return  # the interval is longer than the run, as reported above
    if reads_validation and readings <= 1:
        yield f"trainer.val_every is {between}: {feedback.monitor} is read at the end of the run only, too late to act"
        return
    what = "validation" if reads_validation else "reading"
    for name in ("patience", "warmup"):
        count = (feedback.__pydantic_extra__ or {}).get(name)
        if isinstance(count, int) and count >= readings:
            yield f"feedback.{name}={count} is not below the {readings} {what}s of the run: it would never act"


def _of_health(config: Config, horizon: Horizon) -> Iterator[str]:
    """Yield a warning for each action on the LR that would come to nothing, as far as a config shows it."""
    health = config.health
    rises: dict[OwnResponse, tuple[str, Duration]] = {
        "recover": ("health.recover.rewarm", health.recover.rewarm),
        "restart": ("health.restart.rewarm", health.restart.rewarm),
        "kick": ("health.kick.over", health.kick.over),
        "raise": ("health.raise.rewarm", health.raise_.rewarm),
    }
    for action, (key, duration) in rises.items():
        steps = _steps(duration, horizon) if health.may(action) else None
        if steps is not None and steps >= horizon.steps > 1:
            yield f"{key} is {duration}, but the run has only {horizon.steps:,} steps: it ends before the LR is there"
    for key, duration in {**dict(rises.values()), "health.cooldown": health.cooldown}.items():
        if _is_bare_one(duration):
            yield _of_bare_one(key)
    if (
        health.may("raise")
        and not config.optimizer.of_module
        and optimizer_traits(config.optimizer.target).estimates_lr
    ):
        name = config.optimizer.target.rpartition(".")[2]
        yield f"health.on_too_low=raise has no effect: {name} estimates the LR itself, so none is too low"


def _of_facts(config: Config) -> Iterator[str]:
    """Yield a warning for each fact of the user's own to which nothing refers."""
    own = list((config.data.facts.__pydantic_extra__ if config.data.facts else None) or {})
    if not own or takes(config.data.target, "facts"):
        return
    text = str(OmegaConf.to_container(config.source, resolve=False))
    for name in own:
        if not re.search(rf"data\.facts\.{re.escape(name)}\b|\$\{{data\.facts\}}", text):
            yield f"data.facts.{name} has no effect: neither lrflow nor any ${{data.facts.{name}}} reads it"


def _of_texts(config: Config) -> Iterator[str]:
    """Yield a warning for each number in quotes that an argument without an annotation gets."""
    content: Any = {
        group: getattr(config, group).plain() for group in ("optimizer", "model", "data", "layers", "feedback")
    }
    for key, target, name, value in may_be_number(content):
        yield f"{key}='{value}' is text, and {target}'s {name} may need a number: leave out the quotes"


def unused_by_search(config: Config) -> str | None:
    """Return a line on settings of the run that a search for the LR does not use, since its own short runs end."""
    unused = [f"callbacks.{name}" for name in config.callbacks.nodes()]
    unused += ["trainer.max_time"] if config.trainer.max_time is not None else []
    return f"task=find does not use {', '.join(unused)}: its short runs have a length of their own" if unused else None


def unused_keys(config: Config) -> list[str]:
    """Return a line for each typed key of `find`, `sharpness` and Hydra's run folder that has no effect in this run."""
    typed = [Override.read(text).key for text in config.overrides]
    unread = ["hydra.run.dir does not set the run folder: output=FOLDER does"] if "hydra.run.dir" in typed else []
    task, check = config.task.name, config.find.check
    plans, bounds = task == "plan", isinstance(config.find, StabilityFind)
    looks = config.finds_lr or (check and (bounds or not plans)) or task in ("find", *OF_A_RUN)
    found = getattr(config.find, "found", None) is not None  # by this run: so its keys were read
    if not looks and not found:
        keys = [key for key in typed if key == "find" or (key.startswith("find.") and (check or key != "find.check"))]
        needed = "task=find or find=stability find.check=true"
        needed = needed if plans else "task=find, find.check=true or optimizer.lr=auto"
        unread += [f"{key} has no effect in task={task} without {needed}" for key in keys]
    if config.sharpness_every is None:
        given = [key for key in typed if key.removeprefix("health.").startswith("sharpness.")]
        keys = [key for key in given if not key.endswith(("sharpness.every", "sharpness._target_"))]
        unread += [f"{key} has no effect without sharpness.every, the interval of the measurements" for key in keys]
    return unread


@lru_cache(maxsize=64)
def doubts_in(path: Path, changed: float) -> tuple[str, ...]:
    """Return a warning for each whole number in a YAML file that YAML 1.1 reads in another base than ten.

    Args:
        path: the file.
        changed: time of its last change.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # reported as a problem
        return ()
    return tuple(_odd_numbers(node, "", path))


def _odd_numbers(node: yaml.Node | None, key: str, path: Path) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _odd_numbers(value, f"{key}.{name.value}" if key else str(name.value), path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _odd_numbers(value, f"{key}[{index}]", path)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        text, where = node.value, f"{short_path(path)}:{node.start_mark.line + 1}"
        if node.tag == "tag:yaml.org,2002:int" and re.fullmatch(r"[+-]?0[0-7_]+", text):
            value = int(text.replace("_", ""), 8)
            meant = f"write {text.lstrip('+-0') or 0} or {value}"
            yield f"{key}: YAML reads {text} in base eight, as {value}; {meant} ({where})"
        elif node.tag == "tag:yaml.org,2002:int" and ":" in text:
            yield f"{key}: YAML reads {text} in base sixty, as a number; put it in quotes if it is text ({where})"

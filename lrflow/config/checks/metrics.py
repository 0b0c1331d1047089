"""Modes of the metrics that a config names, and checks of metrics and of feedback on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrflow.clip import limits as of_clip
from lrflow.config.checkpoint_names import COUNTERS
from lrflow.config.config import Config
from lrflow.config.objective import logged_by, loss_of
from lrflow.config.schemas import detector_limits as of_detectors
from lrflow.config.schemas.objects import Feedback
from lrflow.config.schemas.sweep import TARGET
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.feedback import FORMER_NAMES
from lrflow.feedback import limits as of_feedback
from lrflow.limits import outside
from lrflow.metric import (
    LOSS,
    PLACES,
    STAGES,
    TRAIN_LOSS,
    Directions,
    guess_mode,
    is_test,
    is_validation,
    places_in,
)
from lrflow.schedules import Duration, Horizon
from lrflow.wording import counted

_LIMITS = {
    "feedback": {kind: {**of_feedback.BOUNDS, **own} for kind, own in of_feedback.LIMITS.items()},
    "clip": of_clip.LIMITS,
    "health": of_detectors.LIMITS,
}
"""By group, the limits of the settings of each class of lrflow's."""


def directions_of(
    content: Mapping[str, Any], config: DictConfig, recorded_modes: Mapping[str, str] | None = None
) -> Directions:
    """Return the metrics and modes of a composed config.

    Args:
        content: resolved config.
        config: composed config; its `hydra.sweeper` may name metrics too.
        recorded_modes: modes recorded in a run folder, by metric.
    """
    hydra = config.get("hydra")
    node = hydra.get("sweeper") if isinstance(hydra, DictConfig) else None
    sweeper: Any = OmegaConf.to_container(node) if isinstance(node, DictConfig) else {}
    sweeper = sweeper if sweeper.get("_target_") == TARGET else {}
    plain = {key: sweeper.get(key) for key in ("metric", "mode") if "${" not in str(sweeper.get(key))}
    return Directions.of({**content, "sweep": plain}, recorded_modes)


def fill_modes(content: dict[str, Any], directions: Directions) -> None:
    """Fill in each `mode` that is null in a config.

    Args:
        content: resolved config, changed in place.
        directions: metrics and modes of the config.
    """
    for place, key in places_in(content).items():
        node: Any = content
        for part in place.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and "mode" in node and node["mode"] is None and isinstance(node.get(key), str):
            node["mode"] = directions(node[key]).mode


def check_modes(directions: Directions) -> Iterator[Problem]:
    """Yield a problem for each metric with two different modes."""
    for key, mode, there, other, metric in directions.conflicts():
        here, there = (name.replace("trial.", "sweep.") for name in (key, there))
        hint = f"set only one of {here} and {there}: it applies to both"
        yield Problem(here, f"{there} is {other} for the same metric, {metric}", mode, hint)


def check_logged(config: Config) -> list[Problem]:
    """Return a problem for each metric that is named but that a plain module does not log.

    Args:
        config: config of a run with a plain module.
    """
    nodes = [*config.monitors.values(), *config.callbacks.nodes().values()]
    own = any(not str(node["_target_"]).startswith(("lrflow.", "pytorch_lightning.")) for node in nodes)
    if own or config.model.loss is None:  # a user's monitor or callback may log any metric
        return []
    try:
        logged = [f"{stage}/{name}" for stage in STAGES for name in logged_by(config)]
    except ConfigError:  # reported by itself
        return []
    logged.append(TRAIN_LOSS)
    message = f"a plain module trained with {loss_of(config)} does not log this metric"
    unread = "callbacks read what validations log, and the training loss is not among it"
    problems = [
        Problem(f"{place}.monitor", unread, TRAIN_LOSS, f"such as {LOSS}")
        for place, names in config.directions.named.items()
        if place.startswith("callbacks.") and TRAIN_LOSS in names
    ]
    saving = config.trainer.checkpoint
    known = [*COUNTERS, *(name for name in logged if is_validation(name))]
    problems += [
        Problem("trainer.checkpoint.name", f"{message}: {name}", saving.name, did_you_mean(name, known))
        for name in (saving.pattern.fields if saving.pattern else ())
        if name not in known
    ]
    return problems + [
        Problem(
            f"{place}.{PLACES.get(place, 'monitor')}", message, name, did_you_mean(name.replace("_", "/", 1), logged)
        )
        for place, names in config.directions.named.items()
        for name in names
        if place != "trial" and name not in logged and (is_validation(name) or is_test(name) or "/" not in name)
    ]


def is_plain(config: Config) -> bool:
    """Return whether the name of the model shows that it is a plain module, whose metrics are known."""
    return config.model.target.startswith(("lrflow.models.", "torch.nn."))


def no_validation(config: Config) -> tuple[str, Any] | None:
    """Return the key that switches validation off, and its value; None if none is known to do so."""
    if config.trainer.overfit_batches is not None:
        return None
    if config.trainer.limit_val_batches == 0:
        return "trainer.limit_val_batches", 0
    if config.data.target.startswith("lrflow.data.") and config.data.val_size == 0:
        return "data.val_size", 0
    return None


def need_validation(config: Config) -> list[tuple[str, str]]:
    """Return the keys that name a validation metric without which they do nothing, each with the metric."""
    named = [("feedback.monitor", str(config.feedback.monitor))] if isinstance(config.feedback, Feedback) else []
    saving = config.trainer.checkpoint
    if (monitor := saving.monitor) is not None and (monitor != LOSS or saving.best > 1 or saving.name is not None):
        named.append(("trainer.checkpoint.monitor", str(monitor)))
    callbacks = ((name, node.get("monitor")) for name, node in config.callbacks.nodes().items())
    named += [(f"callbacks.{name}.monitor", monitor) for name, monitor in callbacks if isinstance(monitor, str)]
    return [(key, metric) for key, metric in named if is_validation(metric)]


def guessed_modes(directions: Directions) -> list[str]:
    """Return a remark for each mode that was guessed and may be wrong."""
    return [remark for remark, guessed in _mode_remarks(directions) if guessed]


def contrary_modes(directions: Directions) -> list[str]:
    """Return a remark for each given mode that contradicts the metric's name."""
    return [remark for remark, guessed in _mode_remarks(directions) if not guessed]


def _mode_remarks(directions: Directions) -> Iterator[tuple[str, bool]]:
    """Yield a remark on a mode, and whether the mode was guessed."""
    given = {metric: (key, mode) for key, metric, mode in reversed(directions.given)}
    places = {
        name: place for place, names in reversed([*directions.named.items()]) for name in names if place != "find"
    }
    for name, place in places.items():  # a range test reports its own
        key, mode = given.get(name, (f"{place}.mode", None))
        if mode == "min" and guess_mode(name) == "max":
            yield f"{key} is min, but {name} looks like a metric for which higher is better: {key}=max", False
        elif remark := directions(name).guess_remark(key):
            yield remark, True


def check_limits(content: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each setting of lrflow's feedbacks, guards and detectors outside its limits.

    Args:
        content: resolved config.
    """
    problems = []
    for group, limits in _LIMITS.items():
        node = content.get(group)
        nodes = (
            {group: node, **{f"{group}.{name}": one for name, one in node.items()}} if isinstance(node, Mapping) else {}
        )
        for key, one in nodes.items():
            room, _, kind = str(one.get("_target_") if isinstance(one, Mapping) else None).rpartition(".")
            kind = FORMER_NAMES.get(kind, kind)
            if room == f"lrflow.{group}" and kind in limits:
                problems += outside(limits[kind], one, key)
    return problems


def check_feedback(config: Config) -> list[Problem]:
    """Return a problem for each setting with which feedback on a validation metric would not work."""
    feedback = config.feedback
    problems = []
    if off := no_validation(config):
        key, value = off
        for place, metric in need_validation(config):
            hint = f"give {key} another value"
            hint += "" if place.startswith("callbacks.") else f", or {place}={TRAIN_LOSS}"
            problems.append(Problem(place, f"there is no validation: {key} is {value}", metric, hint))
    if not isinstance(feedback, Feedback) or not is_validation(str(feedback.monitor)):
        return problems
    if feedback.every is not None:
        message = f"{feedback.monitor} is read after each validation"
        hint = "leave out feedback.every, and set the interval with trainer.val_every"
        problems.append(Problem("feedback.every", message, str(feedback.every), hint))
    return problems


def unlikely_settings(config: Config, horizon: Horizon) -> list[str]:
    """Return warnings: modes that contradict the metric's name, feedback that never acts."""
    feedback = config.feedback
    found = contrary_modes(config.directions)
    if isinstance(feedback, Feedback):
        every = _every(feedback)
        if every is not None and every.steps(horizon) > horizon.steps:
            found.append(
                f"feedback.every is {every}, but the run has only {counted(horizon.steps, 'step')}: it would never act"
            )
    return found


def _every(feedback: Feedback) -> Duration | None:
    """Return the interval at which feedback reads its metric; None: after each validation, or the kind's default."""
    if is_validation(str(feedback.monitor)):
        return None
    return feedback.every or (Duration(1, "epochs") if feedback.monitor else None)

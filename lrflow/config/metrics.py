"""The metrics that a config names: which way of each is better, given once and held everywhere in the run.

Feedback that would have nothing to look at, or would take worse for better, told before the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrflow.config.config import Config
from lrflow.config.schema import Feedback
from lrflow.config.sweep import TARGET
from lrflow.errors import Problem, did_you_mean
from lrflow.feedback import FORMER_NAMES
from lrflow.feedback.limits import BOUNDS, LIMITS
from lrflow.limits import outside
from lrflow.metric import PLACES, SUPERVISED, Directions, guess_mode, is_test, is_validation
from lrflow.schedules import Duration, Horizon


def directions_of(content: Mapping[str, Any], config: DictConfig, noted: Mapping[str, str] | None = None) -> Directions:
    """What a composed config says about its metrics.

    Args:
        content: the config, resolved.
        config: the same as it was composed; its `hydra.sweeper` may name metrics too.
        noted: modes that a run folder has noted.
    """
    sweeper: Any = OmegaConf.to_container(OmegaConf.select(config, "hydra.sweeper", default=OmegaConf.create({})))
    sweeper = sweeper if sweeper.get("_target_") == TARGET else {}
    plain = {key: sweeper.get(key) for key in ("metric", "mode") if "${" not in str(sweeper.get(key))}
    return Directions.of({**content, "sweep": plain}, noted)


def fill_modes(content: dict[str, Any], directions: Directions) -> None:
    """Put the mode of its metric where a config leaves it open.

    Args:
        content: the resolved config, changed in place.
        directions: what it says about its metrics.
    """
    for place, key in PLACES.items():
        node: Any = content
        for part in place.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and "mode" in node and node["mode"] is None and isinstance(node.get(key), str):
            node["mode"] = directions(node[key]).mode


def check_modes(directions: Directions) -> Iterator[Problem]:
    """Two modes that are given for one metric."""
    for key, mode, there, other, metric in directions.conflicts():
        here, there = (name.replace("trial.", "sweep.") for name in (key, there))
        hint = f"give one of them, {here} or {there}: it holds for both"
        yield Problem(here, f"{there} says {other} of the same metric, {metric}", mode, hint)


def check_logged(config: Config) -> list[Problem]:
    """Metrics of validation or test that are asked for, and that a plain module does not log.

    Args:
        config: of a run of such a module.
    """
    own = any(not str(node["_target_"]).startswith("lrflow.") for node in config.monitors.values())
    if own or config.model.loss is None:  # a monitor of the user's may log what it likes
        return []
    logged = [f"{stage}/{name}" for stage in ("val", "test") for name in SUPERVISED[config.model.loss]]
    message = f"a plain module trained with {config.model.loss} logs no such metric"
    return [
        Problem(f"{place}.{PLACES[place]}", message, name, did_you_mean(name.replace("_", "/", 1), logged))
        for place, names in config.directions.named.items()
        for name in names
        if place != "trial" and name not in logged and (is_validation(name) or is_test(name))
    ]


def guessed_modes(directions: Directions) -> list[str]:
    """Modes that were guessed where the name leaves a doubt, each with how to say otherwise."""
    return [told for told, guessed in _modes(directions) if guessed]


def contrary_modes(directions: Directions) -> list[str]:
    """Modes that were given against the name."""
    return [told for told, guessed in _modes(directions) if not guessed]


def _modes(directions: Directions) -> Iterator[tuple[str, bool]]:
    """What there is to say of a mode, and whether it was guessed."""
    given = {metric: (key, mode) for key, metric, mode in reversed(directions.given)}
    places = {
        name: place for place, names in reversed([*directions.named.items()]) for name in names if place != "find"
    }
    for name, place in places.items():  # a range test tells of its own
        key, mode = given.get(name, (f"{place}.mode", None))
        if mode == "min" and guess_mode(name) == "max":
            yield f"{key} is min, and {name} looks like a metric of which more is better: {key}=max", False
        elif doubt := directions(name).guess_remark(key):
            yield doubt, True


def check_limits(content: Mapping[str, Any]) -> list[Problem]:
    """Settings that a feedback of lrflow's cannot have.

    Args:
        content: the whole config.
    """
    node = content.get("feedback")
    if not isinstance(node, Mapping):
        return []
    room, _, kind = str(node.get("_target_")).rpartition(".")
    kind = FORMER_NAMES.get(kind, kind)
    if room != "lrflow.feedback" or kind not in LIMITS:
        return []
    return outside({**BOUNDS, **LIMITS[kind]}, node, "feedback")


def check_feedback(config: Config) -> list[Problem]:
    """Settings beside which a feedback on a metric of validation never acts, or not as they say."""
    feedback = config.feedback
    if not isinstance(feedback, Feedback) or not is_validation(str(feedback.monitor)):
        return []
    problems = []
    if config.trainer.limit_val_batches == 0:
        message = "nothing is validated: trainer.limit_val_batches is 0"
        problems.append(Problem("feedback.monitor", message, feedback.monitor, "feedback.monitor=train/loss"))
    if feedback.every is not None:
        message = f"{feedback.monitor} is looked at after each validation"
        hint = "leave feedback.every out, and say how often with trainer.val_every"
        problems.append(Problem("feedback.every", message, str(feedback.every), hint))
    return problems


def doubts(config: Config, horizon: Horizon) -> list[str]:
    """What can be meant, but hardly is: a mode against its metric's name, a look that is never taken."""
    feedback = config.feedback
    found = contrary_modes(config.directions)
    if isinstance(feedback, Feedback):
        every = _every(feedback)
        if every is not None and every.steps(horizon) > horizon.steps:
            found.append(f"feedback.every is {every}, and the run has {horizon.steps} steps: it would never look")
    return found


def _every(feedback: Feedback) -> Duration | None:
    """How often it looks as far as the config tells; None: after each validation, or as the kind has it."""
    if is_validation(str(feedback.monitor)):
        return None
    return feedback.every or (Duration(1, "epochs") if feedback.monitor else None)

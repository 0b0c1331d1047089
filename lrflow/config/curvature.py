"""What measuring the curvature of the loss (find=stability, sharpness.every) does not go together with."""

from __future__ import annotations

from collections.abc import Iterator

from lrflow.config.config import Config
from lrflow.config.find import StabilityFind
from lrflow.config.overrides import Override
from lrflow.config.targets import optimizer_traits
from lrflow.errors import Problem
from lrflow.optimizers.traits import known_with


def check_curvature(config: Config, processes: int | None = None) -> list[Problem]:
    """Settings under which the curvature that is asked for cannot be measured, or has no bound to be held against.

    Args:
        config: of the run.
        processes: how many train together; None: as many as the config tells.
    """
    asked = list(_asked(config))
    if not asked:
        return []
    who, trainer = " and ".join(asked), config.trainer
    problems = []
    *names, last = known_with("bound")
    known = f"it is known of {', '.join(names)} and {last}; leave out {who}"
    if optimizer_traits(config.optimizer.target).bound is None:
        name = config.optimizer.target.rpartition(".")[2]
        problems.append(Problem("optimizer._target_", "no stability bound is known of it", name, known))
    if config.optimizer.routes:
        problems.append(Problem("optimizer.routes", "no stability bound is known of several optimizers", ..., known))
    if beyond := trainer.beyond_one_process(processes):
        key, value, instead = beyond
        message = f"{who} measures {'a model that no strategy wraps' if key == 'strategy' else 'on one device'}"
        problems.append(Problem(f"trainer.{key}", message, value, f"trainer.{key}={instead}"))
    if "sharpness.every" in asked and str(trainer.precision) in ("16-true", "bf16-true"):
        message = "the curvature is lost in half precision"
        problems.append(Problem("trainer.precision", message, trainer.precision, "a mixed one keeps whole weights"))
    return problems


def unused_keys(config: Config) -> list[str]:
    """Keys of `find` and `sharpness` that were typed and that nothing in this run reads, each with what would."""
    typed = [Override.read(text).key for text in config.overrides]
    unread = []
    task, check = config.task.name, config.find.check
    plans, bounds = task == "plan", isinstance(config.find, StabilityFind)
    looks = config.finds_lr or (check and (bounds or not plans)) or task in ("find", "evaluate")
    found = getattr(config.find, "found", None) is not None  # by this run: so its keys were read
    if not looks and not found:
        keys = [key for key in typed if key == "find" or (key.startswith("find.") and (check or key != "find.check"))]
        would = "task=find or find=stability find.check=true" if plans else "find.check=true or optimizer.lr=auto"
        unread += [f"nothing reads {key} in task={task}: {would} would" for key in keys]
    if config.sharpness_every is None:
        given = [key for key in typed if key.removeprefix("health.").startswith("sharpness.")]
        keys = [key for key in given if not key.endswith(("sharpness.every", "sharpness._target_"))]
        unread += [f"nothing reads {key}: sharpness.every says how often to measure" for key in keys]
    return unread


def _asked(config: Config) -> Iterator[str]:
    task = config.task.name
    if isinstance(config.find, StabilityFind) and (task == "find" or (config.find.check and task in ("train", "plan"))):
        yield "find=stability"
    if config.sharpness_every is not None and task in ("train", "plan"):
        yield "sharpness.every"

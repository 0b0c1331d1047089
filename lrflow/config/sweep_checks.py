"""Checks of the sweeper's settings, before its first trial."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lrflow.config.extras import missing_package
from lrflow.config.messages import dotted
from lrflow.config.secrets import without_password
from lrflow.config.sweep import Pruning, Sweep
from lrflow.errors import Problem, did_you_mean, nearest
from lrflow.metric import is_of_test


def check_sweeper(content: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the settings of the sweeper.

    Args:
        content: `hydra.sweeper` of a composed config; interpolations of it are left alone.
    """
    settings = {key: value for key, value in content.items() if key != "_target_" and not _is_open(value)}
    try:
        sweep = Sweep.model_validate(settings)
    except ValidationError as error:
        return [_problem(details) for details in error.errors(include_url=False)]
    needed = {"optuna": True, "cmaes": sweep.sampler == "cmaes"}
    problems = [
        missing_package(package, "hydra/sweeper", "lrflow")
        for package, is_needed in needed.items()
        if is_needed and importlib.util.find_spec(package) is None
    ]
    several = len(sweep.metric) if isinstance(sweep.metric, list) else 1
    if isinstance(sweep.mode, list) and len(sweep.mode) not in (1, several):
        message = f"expected one, or as many as sweep.metric has ({several})"
        problems.append(Problem("sweep.mode", message, sweep.mode))
    if several > 1 and sweep.pruner != "none":
        problems.append(
            Problem("sweep.pruner", "several objectives cannot be pruned", sweep.pruner, "sweep.pruner=none")
        )
    if several > 1 and sweep.sampler == "cmaes":
        message = "has one objective"
        problems.append(Problem("sweep.sampler", message, sweep.sampler, "nsga2 and tpe take several"))
    if sweep.pruner != "none" and is_of_test(sweep.objectives[0].name):
        message = "trials are pruned by a metric of validation"
        problems.append(Problem("sweep.metric", message, sweep.objectives[0].name, "such as val/loss"))
    if without_password(sweep.storage) != sweep.storage:
        message, hint = "a password stands here in the clear", "put the URL into an environment variable: sweep.storage"
        problems.append(Problem("sweep.storage", message, sweep.storage, hint + "=${oc.env:NAME} (in quotes)"))
    if sweep.storage == "memory" and sweep.pruner != "none":
        hint = "sweep.storage=journal"
        problems.append(
            Problem("sweep.storage", "pruning is told through a storage that jobs can open", "memory", hint)
        )
    if sweep.storage == "memory" and sweep.resume:
        problems.append(
            Problem("sweep.storage", "a sweep in memory cannot be resumed", "memory", "sweep.storage=journal")
        )
    if sweep.pruning.rungs == "annealed" and sweep.pruner in ("patience", "wilcoxon"):
        message = "has too few rungs to compare by, when each is a whole run"
        problems.append(Problem("sweep.pruner", message, sweep.pruner, "asha, median and hyperband compare rungs"))
    return problems


def nearest_setting(key: str) -> str | None:
    """A hint at the setting of the sweeper that an unknown key of Hydra's, `hydra.sweeper.ntrials`, is closest to."""
    name, known = (
        key.removeprefix("hydra.sweeper."),
        [*Sweep.model_fields, *(f"pruning.{n}" for n in Pruning.model_fields)],
    )
    close = nearest(name, known, count=1) if name != key else []
    return f"did you mean sweep.{close[0]}?" if close else None


def _is_open(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _problem(details: Any) -> Problem:
    name = dotted(details["loc"])
    known = Pruning.model_fields if name.startswith("pruning.") else Sweep.model_fields
    if details["type"] == "extra_forbidden":
        return Problem(
            f"sweep.{name}", "there is no such key", details["input"], did_you_mean(name.rpartition(".")[2], known)
        )
    context = details.get("ctx", {})
    hint = did_you_mean(str(context["word"]), context["options"]) if details["type"] == "option" else None
    return Problem(f"sweep.{name}", details["msg"][:1].lower() + details["msg"][1:], details["input"], hint)

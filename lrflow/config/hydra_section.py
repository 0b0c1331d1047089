"""Checks of Hydra's own section: what it may build, log and set, and the settings of sweeper and launcher."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from lrflow.config.diagnostics import dotted
from lrflow.config.interpolation import leaves
from lrflow.config.packages import missing_package, trusted
from lrflow.config.secrets import find_secrets
from lrflow.config.sweep import TARGET, Pruning, Sweep
from lrflow.errors import Problem, did_you_mean, nearest
from lrflow.metric import is_test
from lrflow.redaction import without_password


def check_sweeper(content: Mapping[str, Any]) -> list[Problem]:
    """Check the settings of the sweeper.

    Args:
        content: `hydra.sweeper` of a composed config; its interpolations are ignored.
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
        message = f"expected one mode, or one per metric of sweep.metric ({several})"
        problems.append(Problem("sweep.mode", message, sweep.mode))
    if several > 1 and sweep.pruner != "none":
        problems.append(
            Problem("sweep.pruner", "cannot prune trials with several objectives", sweep.pruner, "sweep.pruner=none")
        )
    if several > 1 and sweep.sampler == "cmaes":
        message = "supports only one objective"
        problems.append(Problem("sweep.sampler", message, sweep.sampler, "nsga2 and tpe support several"))
    if sweep.pruner != "none" and is_test(sweep.objectives[0].name):
        message = "pruning needs a validation metric"
        problems.append(Problem("sweep.metric", message, sweep.objectives[0].name, "such as val/loss"))
    if without_password(sweep.storage) != sweep.storage:
        message, hint = "contains a password in plain text", "put the URL into an environment variable: sweep.storage"
        problems.append(Problem("sweep.storage", message, sweep.storage, hint + "=${oc.env:NAME} (in quotes)"))
    if sweep.storage == "memory" and sweep.pruner != "none":
        hint = "sweep.storage=journal"
        problems.append(Problem("sweep.storage", "pruning needs a storage that the jobs can open", "memory", hint))
    if sweep.storage == "memory" and sweep.resume:
        problems.append(
            Problem("sweep.storage", "a sweep in memory cannot be resumed", "memory", "sweep.storage=journal")
        )
    if sweep.pruning.rungs == "annealed" and sweep.pruner in ("patience", "wilcoxon"):
        message = "needs more rungs than sweep.pruning.rungs=annealed gives"
        problems.append(Problem("sweep.pruner", message, sweep.pruner, "use asha, median or hyperband"))
    return problems


def nearest_setting(key: str) -> str | None:
    """Return a hint with the sweeper's setting nearest to an unknown key such as `hydra.sweeper.ntrials`, or None."""
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


VECTORIZED = "hydra_plugins.lrflow_vectorized.launcher.VectorizedLauncher"
_PLUGIN = re.compile(r"(hydra\._internal\.core_plugins|hydra_plugins)(\.\w+)+\.[A-Z]\w*")
_ENVIRONMENT = re.compile(r"LRFLOW_.*|PYTHON.*|LD_.*|DYLD_.*|HYDRA_.*|PATH", re.IGNORECASE)
_LOG_CLASSES = ("logging.StreamHandler", "logging.Formatter", "colorlog.ColoredFormatter")
_LOG_FILE = "${hydra.runtime.output_dir}/"


def check_hydra(node: DictConfig) -> list[Problem]:
    """Check Hydra's own section: it may build only plugins, log only to terminal and run folder, and set few variables.

    Args:
        node: `hydra` of a composed config.
    """
    content: Any = OmegaConf.to_container(node, resolve=False)
    problems = [*_built(content), *_logging(content)]
    for name in content["job"]["env_set"]:
        if _ENVIRONMENT.fullmatch(str(name)):
            problems.append(Problem(f"hydra.job.env_set.{name}", "a config may not set this environment variable"))
    if content["mode"] is not None:
        problems.append(Problem("hydra.mode", "cannot be set; -m starts a sweep", node.mode.name))
    if content["sweeper"].get("params") and str(content["sweeper"]["_target_"]).endswith(".BasicSweeper"):
        message = "give the swept values on the command line, such as optimizer.lr=0.1,0.01"
        problems.append(Problem("hydra.sweeper.params", message, content["sweeper"]["params"]))
    if content["sweeper"]["_target_"] == TARGET:
        problems += check_sweeper(content["sweeper"])
    if content["launcher"]["_target_"] == VECTORIZED:
        problems += _check_vectorized(content["launcher"])
    return [*problems, *find_secrets({"hydra": content})]


def _check_vectorized(launcher: Any) -> Iterator[Problem]:
    """Check the settings of the vectorised launcher."""
    size, measure = launcher["size"], launcher["measure"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 2:
        yield Problem("hydra.launcher.size", "expected a whole number of at least 2: jobs that train together", size)
    if not isinstance(measure, bool):
        yield Problem("hydra.launcher.measure", "expected true or false", measure)


def _built(content: Any) -> Iterator[Problem]:
    """Yield a problem for each target that is neither a plugin of Hydra nor in a trusted package."""
    for key, value in leaves(content):
        if key.rpartition(".")[2] != "_target_":
            continue
        plugin = _PLUGIN.fullmatch(str(value)) and key in ("launcher._target_", "sweeper._target_")
        if not plugin and not any(str(value).startswith(f"{package}.") for package in trusted()):
            yield Problem(f"hydra.{key}", "a config may not have Hydra build this", value)


def _logging(content: Any) -> Iterator[Problem]:
    """Yield a problem for each handler and formatter that does not just write to the terminal or the run folder."""
    for group in ("job_logging", "hydra_logging"):
        for part in ("handlers", "formatters", "filters"):
            for name, settings in (content[group].get(part) or {}).items():
                target = settings.get("class", settings.get("()", _LOG_CLASSES[0]))
                path = str(settings.get("filename", ""))
                into_folder = target == "logging.FileHandler" and path.startswith(_LOG_FILE) and ".." not in path
                if target not in _LOG_CLASSES and not into_folder:
                    yield Problem(f"hydra.{group}.{part}.{name}", "a config may not log this way", settings)

"""Hydra's own part of the config, which builds objects too: held to the same rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrflow.config.interpolation import leaves
from lrflow.config.secrets import secret_problem
from lrflow.config.sweep import TARGET
from lrflow.config.sweep_checks import check_sweeper
from lrflow.config.trust import trusted
from lrflow.errors import Problem

VECTORIZED = "hydra_plugins.lrflow_vectorized.launcher.VectorizedLauncher"
_PLUGIN = re.compile(r"(hydra\._internal\.core_plugins|hydra_plugins)(\.\w+)+\.[A-Z]\w*")
_ENVIRONMENT = re.compile(r"LRFLOW_.*|PYTHON.*|LD_.*|DYLD_.*|HYDRA_.*|PATH", re.IGNORECASE)
_LOG_CLASSES = ("logging.StreamHandler", "logging.Formatter", "colorlog.ColoredFormatter")
_LOG_FILE = "${hydra.runtime.output_dir}/"


def check_hydra(node: DictConfig) -> list[Problem]:
    """What a config may not tell Hydra: to build other things than its plugins, to write or set what it likes.

    Args:
        node: `hydra` of a composed config.
    """
    content: Any = OmegaConf.to_container(node, resolve=False)
    problems = [*_built(content), *_logging(content)]
    for name in content["job"]["env_set"]:
        if _ENVIRONMENT.fullmatch(str(name)):
            problems.append(Problem(f"hydra.job.env_set.{name}", "a config may not set this variable"))
    if content["mode"] is not None:
        problems.append(Problem("hydra.mode", "a sweep is asked for with -m", node.mode.name))
    if content["sweeper"].get("params") and str(content["sweeper"]["_target_"]).endswith(".BasicSweeper"):
        message = "what is swept stands on the command line, such as optimizer.lr=0.1,0.01"
        problems.append(Problem("hydra.sweeper.params", message, content["sweeper"]["params"]))
    if content["sweeper"]["_target_"] == TARGET:
        problems += check_sweeper(content["sweeper"])
    if content["launcher"]["_target_"] == VECTORIZED:
        problems += _check_vectorized(content["launcher"])
    found = (secret_problem(f"hydra.{key}", value) for key, value in leaves(content))
    return [*problems, *filter(None, found)]


def _check_vectorized(launcher: Any) -> Iterator[Problem]:
    """What the vectorised launcher cannot take."""
    size, measure = launcher["size"], launcher["measure"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 2:
        yield Problem("hydra.launcher.size", "expected a whole number from 2: jobs that train together at most", size)
    if not isinstance(measure, bool):
        yield Problem("hydra.launcher.measure", "expected true or false", measure)


def _built(content: Any) -> Iterator[Problem]:
    """Targets that are neither Hydra's plugins nor of a package that the user trusts."""
    for key, value in leaves(content):
        if key.rpartition(".")[2] != "_target_":
            continue
        plugin = _PLUGIN.fullmatch(str(value)) and key in ("launcher._target_", "sweeper._target_")
        if not plugin and not any(str(value).startswith(f"{package}.") for package in trusted()):
            yield Problem(f"hydra.{key}", "a config may not have Hydra build this", value)


def _logging(content: Any) -> Iterator[Problem]:
    """Handlers and formatters that do more than write to the terminal or into the run's folder."""
    for group in ("job_logging", "hydra_logging"):
        for part in ("handlers", "formatters", "filters"):
            for name, settings in (content[group].get(part) or {}).items():
                made = settings.get("class", settings.get("()", _LOG_CLASSES[0]))
                path = str(settings.get("filename", ""))
                into_folder = made == "logging.FileHandler" and path.startswith(_LOG_FILE) and ".." not in path
                if made not in _LOG_CLASSES and not into_folder:
                    yield Problem(f"hydra.{group}.{part}.{name}", "a config may not log this way", settings)

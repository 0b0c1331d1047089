"""Checks of the group `logger`: packages that are not installed, arguments of TensorBoard, misspelt names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from lrflow.config.annotations import check_value
from lrflow.config.diagnostics import closest, names_of
from lrflow.config.logger_schema import Logger
from lrflow.config.packages import is_installed, missing_package
from lrflow.config.signatures import named_in_source
from lrflow.errors import Problem

PACKAGES = {
    "comet": ("comet_ml",),
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
}
"""Optional packages that a logger needs, by their import names."""

OF_A_DATABASE = ("sqlalchemy", "alembic")
"""Packages that MLflow needs to keep its runs in a database, as it does by default."""

TENSORBOARD = (
    "pytorch_lightning.loggers.tensorboard.TensorBoardLogger",
    "torch.utils.tensorboard.writer.SummaryWriter",
)
"""The classes that share the arguments in `logger.tensorboard`."""


def check_loggers(content: Mapping[str, Any], choices: Mapping[str, str | None]) -> Iterator[Problem]:
    """Yield the problems of the loggers of a config.

    Args:
        content: resolved config; other checks report a group that is no mapping.
        choices: chosen option of each group.
    """
    chosen = [name.strip(" '\"") for name in (choices.get("logger") or "").strip("[]").split(",")]
    if "none" in chosen and len(chosen) > 1:
        yield Problem(
            "logger", "none goes with no other logger", choices["logger"], "leave it out, or logger.csv=false"
        )
    given, task = content.get("logger"), content.get("task")
    if not isinstance(given, Mapping):
        return
    if isinstance(task, Mapping) and task.get("name") == "train":  # the others log nothing
        for name, packages in PACKAGES.items():
            settings = given.get(name)
            if isinstance(settings, Mapping):
                more = OF_A_DATABASE if name == "mlflow" and _is_database(settings.get("tracking_uri")) else ()
                missing = [package for package in (*packages, *more) if not is_installed(package)]
                yield from (missing_package(package, "logger", name) for package in missing[:1])
    known = names_of(Logger)
    for name, value in given.items():
        if value is None and name not in known and (near := closest(str(name), known)):
            yield Problem(f"logger.{name}", "there is no such logger", None, f"did you mean logger.{near}?")
    yield from check_tensorboard(given.get("tensorboard"))


def _is_database(uri: Any) -> bool:
    """Return whether MLflow keeps its runs in a database that this process opens."""
    return uri is None or str(uri).partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def check_tensorboard(given: Any) -> list[Problem]:
    """Return a problem for each key of `logger.tensorboard` that neither the logger nor its writer takes.

    Args:
        given: content of the key; other checks report it if it is not a mapping.
    """
    if not isinstance(given, Mapping) or not given:
        return []
    named: dict[str, inspect.Parameter] = {}
    for target in TENSORBOARD:
        named = {**named_in_source(target)[0], **named}
    ours = ("save_dir", "name", "version", "log_dir")
    known = [name for name in named if name not in ours]
    problems = []
    for name, value in given.items():
        key = f"logger.tensorboard.{name}"
        if name in ours:
            problems.append(Problem(key, "is set by lrflow: it logs into the run folder", value, "leave it out"))
        elif name not in named:
            near = closest(str(name), known)
            hint = f"did you mean logger.tensorboard.{near}?" if near else f"it takes {', '.join(known)}"
            problems.append(Problem(key, "Lightning's TensorBoardLogger takes no such argument", value, hint))
        elif problem := check_value(named[name], value, key):
            problems.append(problem)
    return problems

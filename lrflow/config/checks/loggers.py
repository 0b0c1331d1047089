"""Checks of the group `logger`: packages that are not installed, arguments of TensorBoard, misspelt names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lrflow.config.annotations import check_value
from lrflow.config.diagnostics import closest, names_of
from lrflow.config.packages import is_installed, missing_package
from lrflow.config.schemas.loggers import Logger, Wandb
from lrflow.config.signatures import named_in_source
from lrflow.errors import Problem

PACKAGES = {
    "comet": ("comet_ml",),
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
}
"""Optional packages that a logger needs, by their import names."""

LOGGED = ("train", "plan", "find", "analyze")
"""Tasks that dashboards show as runs."""

WANDB_SETTINGS = "wandb.sdk.wandb_settings.Settings"

OF_ENVIRONMENT = {
    "api_key": "WANDB_API_KEY",
    "base_url": "WANDB_BASE_URL",
    "http_proxy": "HTTP_PROXY",
    "https_proxy": "HTTPS_PROXY",
}
"""Settings of W&B that say where a run goes and by which key, and the environment variable of each."""

OF_LRFLOW = re.compile(
    r"run_.*|resume.*|fork_from|mode|project|entity|sweep_.*|launch.*|root_dir|program.*|reinit|sync_tensorboard"
    r"|settings_system|config_paths|.*_file|x_files_dir|x_service_.*|x_proxies|x_extra_http_headers|insecure_.*|stop_fn"
    r"|x_stats_open_metrics_.*|x_stats_coreweave_.*|azure_.*|app_url_override"
)
"""Settings of W&B that lrflow gives itself, or that would write or send elsewhere than a run does."""

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
    if isinstance(task, Mapping) and task.get("name") in LOGGED:
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
    if isinstance(of_wandb := given.get("wandb"), Mapping):
        yield from check_wandb_settings(of_wandb.get("settings"))


def check_wandb_settings(given: Any) -> Iterator[Problem]:
    """Yield a problem for each setting that W&B does not have, or that lrflow or the environment gives.

    Args:
        given: content of `logger.wandb.settings`; other checks report it if it is not a mapping.
    """
    if not isinstance(given, Mapping) or not given:
        return
    named = named_in_source(WANDB_SETTINGS)[0]
    known = [name for name in named if not OF_LRFLOW.fullmatch(name)]
    for name, value in given.items():
        key, variable = f"logger.wandb.settings.{name}", OF_ENVIRONMENT.get(name)
        if variable:
            yield Problem(key, "is not set in a config", ..., f"set the environment variable {variable}")
        elif OF_LRFLOW.fullmatch(str(name)):
            own = str(name).removeprefix("run_")
            hint = f"logger.wandb.{own}=..." if own in Wandb.model_fields else "leave it out"
            yield Problem(key, "is set by lrflow", value, hint)
        elif name not in named:
            near = closest(str(name), known)
            hint = f"did you mean logger.wandb.settings.{near}?" if near else "they are those of wandb.Settings"
            yield Problem(key, "W&B has no such setting", value, hint)
        elif problem := check_value(named[name], value, key):
            yield problem


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

"""The run whose config a forecast takes: the first one of `task.from`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lrflow.config.composition.overrides import Override
from lrflow.errors import ConfigError, Problem
from lrflow.files import did_you_mean_path, is_file, is_folder
from lrflow.runs import RunFolder

EXAMPLE = "such as task.from=[outputs/TRUNK,outputs/BRANCH]"


def forecast_from(overrides: Iterable[Override]) -> Path | None:
    """Return the config.yaml of the first run of a forecast; None: there is no forecast, or it names no runs.

    Raises:
        ConfigError: there is no such run.
    """
    given = {override.key: override for override in overrides}
    if "task" not in given or given["task"].value != "forecast" or "task.from" not in given:
        return None
    override = given["task.from"]
    value = override.parsed.value() if override.is_readable and not override.is_swept else None
    first = value[0] if isinstance(value, list) and value else value
    if first is None:
        return None  # the checks report it
    folder = RunFolder(Path(str(first)))
    if not is_file(folder.config):
        raise ConfigError([no_run("task.from", folder.path)])
    return folder.config


def no_run(key: str, folder: Path) -> Problem:
    """Return the problem of a path that should be the folder of a run, and has no config.yaml."""
    if is_folder(folder):
        message, hint = "expected a run folder, and this one has no config.yaml", None
    else:
        message, hint = "expected a run folder, and there is none of this name", did_you_mean_path(folder)
    return Problem(key, message, str(folder), hint or (EXAMPLE if key == "task.from" else None))

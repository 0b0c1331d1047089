"""The run whose config a forecast takes: the first one of `task.from`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lrflow.config.composition.overrides import Override
from lrflow.errors import ConfigError, Problem
from lrflow.files import is_file
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
    path = RunFolder(Path(str(first))).config
    if not is_file(path):
        message = "expected run folders, and this one has no config.yaml"
        raise ConfigError([Problem("task.from", message, str(first), EXAMPLE)])
    return path

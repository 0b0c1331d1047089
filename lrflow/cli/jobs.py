"""Runs jobs: a single one, or those of a sweep one after the other."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrflow.cli.report import show_failure
from lrflow.config import Config
from lrflow.errors import ConfigError, LrflowError, Problem, StoppedError


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        overrides: the job's own.
        result: what its task returned: metrics, and `folder`.
        error: what it raised instead.
        seconds: how long it took.
        folder: where it wrote.
    """

    overrides: list[str]
    result: Mapping[str, Any]
    error: Exception | None
    seconds: float
    folder: Path | None = None

    @property
    def status(self) -> str:
        """`done`, `failed` or `stopped`."""
        if self.error is None:
            return "done"
        return "stopped" if isinstance(self.error, StoppedError) else "failed"

    @property
    def exit_code(self) -> int:
        """0, or what the failure asks for."""
        if self.error is None:
            return 0
        return self.error.exit_code if isinstance(self.error, LrflowError) else 1


def run_task(config: Config) -> dict[str, Any]:
    """Runs the task that a config names; the module of that name in `lrflow.tasks` has a `run(config)`."""
    task = importlib.import_module(f"lrflow.tasks.{config.task.name}")
    result: dict[str, Any] = task.run(config)
    return result


def run_job(config: Config, place: Callable[[list[Problem]], list[Problem]] = list) -> Outcome:
    """Runs one job; a failure is shown and noted. One that was asked to stop is to be the last.

    Args:
        config: the job's.
        place: adds to problems the file and line that they come from.
    """
    started = time.monotonic()
    result: Mapping[str, Any] = {}
    failure: Exception | None = None
    try:
        result = run_task(config) or {}
    except Exception as error:
        failure = ConfigError(place(error.problems)) if isinstance(error, ConfigError) else error
        show_failure(failure, "This job was not run." if config.run_folder else "Nothing was run.")
    folder = result.get("folder") or config.run_folder
    return Outcome(config.overrides, result, failure, time.monotonic() - started, Path(folder) if folder else None)

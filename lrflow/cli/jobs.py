"""Runs jobs: a single one, or those of a sweep one after the other."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrflow.cli.report import show_failure
from lrflow.config import Config
from lrflow.errors import ConfigError, Problem, PrunedError
from lrflow.memory import freed_after, without_locals
from lrflow.sweeps.outcome import Outcome

if TYPE_CHECKING:
    from lrflow.tasks.population import Trained


def run_task(config: Config) -> dict[str, Any]:
    """Runs the task that a config names; the module of that name in `lrflow.tasks` has a `run(config)`."""
    task = importlib.import_module(f"lrflow.tasks.{config.task.name}")
    result: dict[str, Any] = task.run(config)
    return result


def run_job(
    config: Config, place: Callable[[list[Problem]], list[Problem]] = list, trained: Trained | None = None
) -> Outcome:
    """Runs one job; a failure is shown and noted. One that was asked to stop is to be the last.

    Args:
        config: the job's.
        place: adds to problems the file and line that they come from.
        trained: how it has ended already, where it was trained with others; None: it is run.
    """
    with freed_after() if config.run_folder else nullcontext():  # another job of the sweep may come
        return _run_job(config, place, trained)


def _run_job(config: Config, place: Callable[[list[Problem]], list[Problem]], trained: Trained | None) -> Outcome:
    started = time.monotonic()
    result: Mapping[str, Any] = {}
    failure: Exception | None = None
    try:
        result = trained.outcome() if trained else run_task(config) or {}
    except Exception as error:
        failure = ConfigError(place(error.problems)) if isinstance(error, ConfigError) else error
        if isinstance(error, PrunedError):
            result = error.metrics
            print(error)
        else:
            show_failure(failure, "This job was not run." if config.run_folder else "Nothing was run.")
        without_locals(error)
    folder = result.get("folder") or config.run_folder
    seconds = trained.seconds if trained else time.monotonic() - started
    return Outcome(config.overrides, result, failure, seconds, Path(folder) if folder else None)

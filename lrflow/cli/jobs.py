"""Runs jobs: a single one, or those of a sweep one after the other."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lrflow.cli.report import console, show_failure
from lrflow.config import Config
from lrflow.errors import LrflowError


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        overrides: the job's own.
        result: what its task returned: metrics, and `folder`.
        error: what it raised instead.
        seconds: how long it took.
    """

    overrides: list[str]
    result: Mapping[str, Any]
    error: Exception | None
    seconds: float
    folder: Path | None = None

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


def run_job(config: Config) -> Outcome:
    """Runs one job; a failure is shown and noted. What ends the whole process (SIGTERM, ^C) goes through."""
    started = time.monotonic()
    result: Mapping[str, Any] = {}
    failure: Exception | None = None
    try:
        result = run_task(config) or {}
    except Exception as error:
        failure = error
        show_failure(error)
    folder = result.get("folder") or config.run_folder
    return Outcome(config.overrides, result, failure, time.monotonic() - started, Path(folder) if folder else None)


def show_summary(outcomes: list[Outcome]) -> None:
    """Prints how the jobs of a sweep ended."""
    metrics = list(dict.fromkeys(name for o in outcomes for name, value in o.result.items() if isinstance(value, float)))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("job", justify="right")
    table.add_column("overrides", overflow="fold")
    for name in metrics:
        table.add_column(name, justify="right")
    table.add_column("status")
    table.add_column("folder", overflow="fold")
    for number, outcome in enumerate(outcomes):
        values = [outcome.result.get(name) for name in metrics]
        table.add_row(
            str(number),
            " ".join(outcome.overrides),
            *("" if value is None else f"{value:.4g}" for value in values),
            Text("failed", "red") if outcome.error else Text("done", "green"),
            str(outcome.folder or ""),
        )
    out = console()
    out.print()
    out.print(table)
    failed = sum(outcome.error is not None for outcome in outcomes)
    if failed:
        out.print(Text(f"{failed} of {len(outcomes)} jobs failed.", "red"))

"""Run one job, and report its failure."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrflow.errors import ConfigError, EndedEarlyError, Problem, PrunedError, SignalReceived, StoppedError
from lrflow.memory import clear_locals, freed_after, kept_for_good
from lrflow.outcome import Outcome, numbers_in
from lrflow.remote import upload
from lrflow.runs import RunFolder
from lrflow.stops import handled

if TYPE_CHECKING:
    from lrflow.config import Config

log = logging.getLogger("lrflow")


def run_task(config: Config) -> Outcome:
    """Run the task of a config and return its outcome.

    The module of that name in `lrflow.tasks` has either `outcome(config)`, which returns the outcome, or `run(config)`,
    which returns metrics, and `folder` if it wrote one.
    """
    name = f"lrflow.tasks.{config.task.name}"
    with nullcontext() if name in sys.modules else kept_for_good():
        task = importlib.import_module(name)
    if hasattr(task, "outcome"):
        ended: Outcome = task.outcome(config)
    else:
        started = time.monotonic()
        result: dict[str, Any] = task.run(config) or {}
        folder = Path(result["folder"]) if result.get("folder") else None
        ended = Outcome.finished(numbers_in(result), seconds=time.monotonic() - started, folder=folder)
    if ended.folder and not _is_further_rank() and (url := upload(RunFolder(ended.folder), must=True)):
        print(f"uploaded to {url}")
    return ended


def run_job(
    config: Config, place: Callable[[list[Problem]], list[Problem]] = list, trained: Outcome | None = None
) -> Outcome:
    """Run one job, print its failure if it has one, and return its outcome.

    Args:
        config: config of the job.
        place: function that adds file and line to problems.
        trained: outcome of a job that was trained together with others; None runs the job.
    """
    # The next job of the sweep needs the memory, and a launcher's own process has no signal handlers yet.
    with freed_after() if config.run_folder else nullcontext(), handled():
        return _run_job(config, place, trained)


def log_remarks(config: Config) -> None:
    """Log what a user should know about the composition of a job before it starts."""
    doubts = [] if config.task.name in ("train", "plan") else config.doubts  # these two report them with others
    for remark in (*config.remarks, *doubts):
        log.warning("%s", remark)


def _run_job(config: Config, place: Callable[[list[Problem]], list[Problem]], trained: Outcome | None) -> Outcome:
    started = time.monotonic()
    log_remarks(config)
    try:
        ended = (trained or run_task(config)).raise_if_unfinished()
    except (Exception, SystemExit, SignalReceived) as raised:
        from lrflow.config.failures import failure

        error = failure(raised)
        if isinstance(error, KeyboardInterrupt):
            raise error from None
        shown = ConfigError(place(error.problems)) if isinstance(error, ConfigError) else error
        if isinstance(error, PrunedError | EndedEarlyError | StoppedError) and _is_further_rank():
            pass
        elif isinstance(error, PrunedError | EndedEarlyError):
            print(error)
        else:
            from lrflow.cli.errors import show_failure

            show_failure(shown, "This job was not run." if config.run_folder else "Nothing was run.")
        clear_locals(error)
        ended = Outcome.attached_to(error) or Outcome.from_error(shown, seconds=time.monotonic() - started)
    return replace(ended, overrides=config.overrides, folder=ended.folder or config.run_folder)


def _is_further_rank() -> bool:
    """Return whether another process of the same run reports how it ended."""
    if "pytorch_lightning" not in sys.modules:  # no processes were started, and the import is slow
        return False
    from lrflow.launch import rank

    return rank() > 0

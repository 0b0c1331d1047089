"""The folder of a run: which it is, what it says of the run's beginning and end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console

from lrflow import assemble
from lrflow.config import Config, save_config
from lrflow.errors import cause_of
from lrflow.outcome import Outcome
from lrflow.plan import Plan
from lrflow.runs import RunFolder
from lrflow.training.loggers import build_loggers, close_loggers
from lrflow.training.resume import Resumed
from lrflow.training.trainer import rank


def open_folder(config: Config, resumed: Resumed | None, title: str | None = None) -> RunFolder:
    """The folder of the run: a new one, the sweep's, or the one of the run that goes on.

    A run goes on where it was only from its newest checkpoint; from an older one it branches into a new folder,
    so that nothing of the first is overwritten.

    Args:
        config: where folders are made, and under what name.
        resumed: what goes on.
        title: what to call a new one; None: as the run is called.
    """
    if inherited := os.environ.get("LRFLOW_RUN_FOLDER"):
        return RunFolder(Path(inherited))
    if rank() > 0:
        return RunFolder(Path(config.output))  # another node's rank: it writes nothing
    if config.run_folder:
        return RunFolder.at(config.run_folder)
    if resumed and resumed.is_newest and config.resume.horizon != "branch":
        return RunFolder.of(resumed.path)
    return RunFolder.create(Path(config.output), title or config.title)


def open_loggers(config: Config, folder: RunFolder) -> list[Logger]:
    """What a run reports its metrics to."""
    return build_loggers(config.logger.model_dump(), folder.path, config.title, assemble.plain_config(config))


@contextmanager
def own_environment(folder: RunFolder) -> Iterator[None]:
    """Tell the processes that Lightning starts which run they belong to, and leave no trace for the next run.

    Lightning takes the variables that it sets itself for a launcher's when it meets them again (2.6.6), so the
    second job of a sweep would wait for ever for processes that nobody starts.
    """
    before = dict(os.environ)
    if rank() == 0:
        os.environ["LRFLOW_RUN_FOLDER"] = str(folder.path.resolve())
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def record_start(config: Config, folder: RunFolder, plan: Plan, devices: int, picture: bool = True) -> None:
    """Write what the run is: its config, its environment and its plan.

    Args:
        config: of the run.
        folder: of the run.
        plan: what it will execute.
        devices: processes that train together.
        picture: whether to draw the plan, which takes longer than a small trial trains.
    """
    _ = folder.run_id  # makes it, before the config: a folder with a config and no id is an earlier version's
    save_config(config, folder.config)
    folder.write_environment()
    plan.write(folder.path, assemble.plan_extras(config, devices), picture)


@contextmanager
def failure_recorded(
    folder: RunFolder,
    facts: Mapping[str, Any],
    loggers: list[Logger],
    so_far: Callable[[], Mapping[str, Any]] = dict,
) -> Iterator[None]:
    """Record how the run ended where what is done within raises.

    Args:
        folder: of the run.
        facts: of its summary, as they stand by then.
        loggers: of its metrics.
        so_far: the fields of its `Outcome` at that time.

    Raises:
        BaseException: what really ended it, which Lightning may have turned into an exit; it brings the outcome that
            was recorded.
    """
    try:
        yield
    except BaseException as error:
        cause = cause_of(error)
        outcome = Outcome.from_error(cause, **so_far())
        conclude(folder, outcome, loggers, **facts)
        outcome.error_with_outcome()
        if cause is error:
            raise
        raise cause from None


def conclude(folder: RunFolder, outcome: Outcome, loggers: list[Logger], **facts: Any) -> None:
    """Record how the run ended in its folder and on its dashboards; only the first process does.

    Args:
        folder: of the run.
        outcome: how it ended.
        loggers: of its metrics, which are closed.
        facts: of the summary, besides the outcome.
    """
    if rank() == 0:
        folder.write_summary(outcome.summary(**facts))
    close_loggers(loggers, outcome)


def print_outcome(console: Console, folder: RunFolder, outcome: Outcome) -> None:
    """Print the last metrics, and what lies in the folder."""
    shown = "  ".join(f"[bold]{name}[/] {value:.4g}" for name, value in outcome.metrics.items())
    console.print(f"\n{outcome.steps} steps in {outcome.seconds:.1f} s  {shown}", soft_wrap=True)
    written = ["config.yaml", "plan.png", "metrics.csv", "sharpness.png", "summary.json"]
    last = sorted(folder.checkpoints.glob("*.ckpt"))
    written += [f"checkpoints/{path.name}" for path in last]
    names = ", ".join(name for name in written if (folder.path / name).exists())
    console.print(f"{folder.path}/: {names}", soft_wrap=True, highlight=False)

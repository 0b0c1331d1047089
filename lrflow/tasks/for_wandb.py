"""What `task.wandb` makes of a sweep for Weights & Biases: its search, a workspace, a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from lrflow.config import Config
from lrflow.config.packages import is_installed, missing_package
from lrflow.config.schemas.loggers import Wandb
from lrflow.errors import LrflowError, Problem
from lrflow.loggers.wandb_access import resolve_mode
from lrflow.sweeps.results import SweepResults
from lrflow.sweeps.wandb_sweep import write_wandb_sweep

KEY = "task.wandb"
PACKAGE = "wandb_workspaces"


def check_wandb(wanted: Sequence[str]) -> Iterator[Problem]:
    """Yield the problem of a workspace or a report without its package."""
    pages = [one for one in wanted if one != "sweep"]
    if pages and not is_installed(PACKAGE):
        yield missing_package(PACKAGE, KEY, pages[0])


def for_wandb(config: Config, sweep: SweepResults, wanted: Sequence[str], console: Console) -> None:
    """Make what `task.wandb` asks for, and print where it is.

    Args:
        config: its `logger.wandb` names project and account of the runs.
        sweep: the results.
        wanted: some of `sweep`, `workspace` and `report`.
        console: for the result.

    Raises:
        LrflowError: W&B cannot be reached, or refuses the page.
    """
    settings = config.logger.wandb or Wandb.model_validate({})
    if "sweep" in wanted:
        path = write_wandb_sweep(sweep)
        console.print(f"start the search: wandb sweep --project {settings.project} {path}", soft_wrap=True)
    if pages := [one for one in wanted if one != "sweep"]:
        if resolve_mode(settings.mode, sweep.folder) != "online":
            raise LrflowError(f"{KEY}={pages[0]} needs W&B's server: set WANDB_API_KEY")
        try:
            for page in pages:
                console.print(f"{page}: {_save(page, sweep, settings)}", soft_wrap=True)
        except Exception as error:  # W&B raises any
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise LrflowError(f"Weights & Biases refuses the page: {reason}") from error


def _save(page: str, sweep: SweepResults, settings: Wandb) -> Any:
    """Save a page in the project of the runs, and return its address."""
    import wandb

    from lrflow.reports.wandb_pages import Shown, report_of, workspace_of

    entity, shown = settings.entity or str(wandb.Api().default_entity), Shown.of(sweep)
    make = workspace_of if page == "workspace" else report_of
    saved = make(shown, entity, settings.project)
    saved.save()
    return saved.url

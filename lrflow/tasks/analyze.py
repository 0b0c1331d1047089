"""task=analyze: read the run folders of a sweep and report what they show about the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lrflow.config import Config, load_config, validate
from lrflow.config.schemas.task import Analyze
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.loggers.dashboard import About
from lrflow.metric import as_list
from lrflow.reports.sweep import report
from lrflow.runs import RunFolder
from lrflow.sweeps.analysis import Analysis
from lrflow.sweeps.folders import find_sweep, read_sweep
from lrflow.sweeps.results import SweepResults, TrialResult
from lrflow.sweeps.trial_recipe import command, write_recipe
from lrflow.tasks.for_wandb import check_wandb, for_wandb
from lrflow.tasks.run_record import log_task


def run(config: Config) -> dict[str, Any]:
    """Analyse a sweep again, or any folder of run folders.

    Returns:
        `folder`; where an LR was swept, also `lr`, `low`, `high` and the metric of the curve that is best by the first
        objective.

    Raises:
        ConfigError: there is no such sweep, metric or trial.
        LrflowError: the folder of the sweep cannot be written to.
    """
    task = config.task
    assert isinstance(task, Analyze)
    folder = find_sweep(task.source, Path(config.output), "task.from")
    sweep = read_sweep(folder, task.metric, task.mode, task.rank_ended_early)
    if problems := [*_problems(task, sweep), *check_wandb(as_list(task.wandb))]:
        raise ConfigError(problems)
    console = QuietConsole(highlight=False)
    objectives = ", ".join(map(str, sweep.objectives))
    console.print(f"{sweep.folder}, by {objectives}", style="bold", soft_wrap=True)
    try:
        own = sweep.objectives == read_sweep(folder).objectives
        analyses = report(sweep, console, task.margin, recipe=own or task.write, page=config.report)
        if task.trial is not None:
            _write(sweep, sweep.numbered[task.trial], console)
    except OSError as error:
        raise LrflowError(f"{sweep.folder}: the results of the sweep cannot be written: {error.strerror}") from error
    for_wandb(config, sweep, as_list(task.wandb), console)
    found = _found(sweep, analyses)
    log_analysis(config, sweep, found)
    return {"folder": str(sweep.folder), **found}


def log_analysis(config: Config, sweep: SweepResults, found: Mapping[str, float]) -> None:
    """Show the report of a sweep on dashboards, as a run in the group of its jobs.

    Args:
        config: its `logger` chooses them.
        sweep: whose report is written.
        found: numbers that the report found.
    """
    about = About(sweep.folder.name, options={"task": "analyze"}, group=sweep.folder.name)
    log_task(config, RunFolder(sweep.folder), about, {f"sweep/{name}": value for name, value in found.items()})


def log_sweep_to_wandb(sweep: SweepResults, analyses: Sequence[Analysis]) -> None:
    """Show the report of a sweep that has ended on W&B, if its runs are there.

    Raises:
        LrflowError: the config of its first run cannot be read, or W&B refuses the run.
    """
    config = validate(load_config(sweep.runs[0].folder / "config.yaml"), None)
    if config.logger.wandb is not None:
        only = config.logger.model_validate({"csv": False, "wandb": config.logger.wandb.model_dump()})
        log_analysis(config.model_copy(update={"logger": only}), sweep, _found(sweep, analyses))


def _found(sweep: SweepResults, analyses: Sequence[Analysis]) -> dict[str, float]:
    """Return the best LR by the first objective, its interval and its value; empty: no LR was swept."""
    if not analyses or not (best := analyses[0].curves[0]).minimum:
        return {}
    low, high = best.interval
    return {"lr": best.lr, "low": low, "high": high, sweep.metric: analyses[0].metric(best.cost)}


def _problems(task: Analyze, sweep: SweepResults) -> list[Problem]:
    """The metrics, modes and trial of the task that the sweep does not have."""
    metrics, modes = ([value] if isinstance(value, str) else value or [] for value in (task.metric, task.mode))
    known = {name for trial in sweep.trials for name in trial.metrics}
    problems = [
        Problem("task.metric", "no trial has this metric", metric, did_you_mean(metric, known))
        for metric in metrics
        if known and metric not in known
    ]
    if len(modes) > 1 and len(modes) != len(sweep.objectives):
        message = f"expected one, or as many as there are objectives ({len(sweep.objectives)})"
        problems.append(Problem("task.mode", message, modes))
    numbered = sweep.numbered
    if task.trial is not None and task.trial not in numbered:
        hint = f"they are {min(numbered)} to {max(numbered)}" if numbered else None
        problems.append(Problem("task.trial", "there is no such trial", task.trial, hint))
    return problems


def _write(sweep: SweepResults, trial: TrialResult, console: Console) -> None:
    """Write a trial as a recipe, and print the command that runs it again."""
    name = f"trial-{trial.number}"
    write_recipe(sweep, trial, name)
    console.print(f"trial {trial.number} again: {command(sweep, name)}", soft_wrap=True)

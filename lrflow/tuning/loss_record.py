"""The losses and the learning rates of run folders, as a law of the loss is fitted to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.config import locate
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.history import read_history
from lrflow.metric import TRAIN_LOSS, is_loss
from lrflow.plan import Plan
from lrflow.plan.values import PlanBase, peak_step
from lrflow.runs import RunFolder
from lrflow.schedules.time import Floats
from lrflow.tuning.loss_fit import LEAST_OF_A_RUN, LEAST_POINTS, Losses
from lrflow.wording import counted, joined

VALIDATION_LOSS = "val/loss"
MOST_POINTS = 100
"""Losses of the longest run that a fit uses, about; of more, means over stretches of equal length in all runs."""


def main_rates(plan: PlanBase, steps: int | None = None) -> tuple[str, Floats]:
    """Return the group with the most parameters that train, and its LR at each step; [steps].

    Args:
        plan: of a run.
        steps: number of steps; None: the whole run.
    """
    group = max(plan.trainable, key=lambda group: group.parameters)
    column = plan.names.index(group.name)
    return group.name, plan.lr(np.arange(steps or plan.horizon.steps))[:, column]


def read_plan(folder: Path) -> Plan:
    """Return the plan of a run.

    Raises:
        ValueError: it has none that can be read.
    """
    path = folder / "plan.json"
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")), resolve=locate)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, LrflowError) as error:
        raise ValueError("its plan.json cannot be read as a plan") from error


def read_losses(folder: Path, metric: str) -> Losses:
    """Return all losses of a run after its warmup, and the LRs that it used.

    The LRs are those of the group with the most parameters. Where the run recorded that it used another LR than the
    planned one, as under feedback, this is taken, up to the next record.

    Args:
        folder: of the run.
        metric: column of its metrics.csv.

    Raises:
        ValueError: it has no plan that can be read, a batch that changes, or none of these losses.
    """
    plan = read_plan(folder)
    if plan.horizon.batch is not None:
        raise ValueError("has a batch that changes (schedule.batch), and the law is one of the LR at one batch")
    name, planned = main_rates(plan)
    columns = (metric, f"lr/{name}", f"lr_planned/{name}")
    history = read_history(RunFolder(folder).metrics, lambda column: column in columns or is_loss(column))
    series = history[metric]
    # The training loss of step n is computed before its update, a validation after it.
    after = series.steps + (0 if metric == TRAIN_LOSS else 1)
    rates = _used(planned, history[columns[1]], history[columns[2]])
    warm = peak_step(rates) + 1
    known = np.isfinite(series.values) & (series.values > 0) & (after >= warm) & (after <= len(rates))
    last = np.append(np.diff(after) > 0, True)[: len(after)]  # of rows of one step, after a rollback
    found = Losses(str(folder), rates, after[known & last], series.values[known & last])
    if not len(found.after):
        others = [name for name in history if is_loss(name) and len(history[name])]
        logged = f", but {joined(others)}" if others else ""
        raise ValueError(f"has none of {metric} after its warmup" if len(series) else f"has no {metric}{logged}")
    return found


def common_width(runs: Sequence[Losses]) -> int:
    """Return the number of steps over which the losses of runs are averaged: few points, and equal scatter of all."""
    longest = max(runs, key=lambda run: len(run.after))
    span = int(longest.after[-1] - longest.after[0]) + 1
    return -(-span // MOST_POINTS) if len(longest.after) > MOST_POINTS else 1


def _used(planned: Floats, actual: Any, expected: Any) -> Floats:
    """Return the LRs that a run used: as planned, times the last recorded factor on the plan."""
    if not len(actual) or len(actual) != len(expected):
        return planned
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(expected.values > 0, actual.values / expected.values, 1.0)
    if np.allclose(factors, 1.0, rtol=1e-6):
        return planned
    order = np.argsort(actual.steps, kind="stable")
    at = np.searchsorted(actual.steps[order], np.arange(len(planned)), side="right") - 1
    return planned * np.where(at >= 0, factors[order][np.maximum(at, 0)], 1.0)


def read_runs(folders: Sequence[Path], metric: str | None) -> tuple[str, list[Losses], int]:
    """Return the metric that is fitted, the losses of each run, and the number of steps over which they are averaged.

    Args:
        folders: of the runs.
        metric: the metric; None: `val/loss` if the runs have enough of it, else `train/loss`.

    Raises:
        ConfigError: a run has no such losses, too few of them, or the same LRs as another one.
    """
    for name in [metric] if metric else [VALIDATION_LOSS, TRAIN_LOSS]:
        found, problems = [], []
        for folder in folders:
            try:
                found.append(read_losses(folder, name))
            except ValueError as error:
                problems.append(Problem("task.from", str(error), str(folder), _HINT))
        width = common_width(found) if found else 1
        found = [run.averaged(width) for run in found]
        for run in found:
            if len(run.after) < LEAST_OF_A_RUN:
                had = f"has {counted(len(run.after), 'value')} of {name} after its warmup"
                problems.append(Problem("task.from", f"{had}, and a fit needs {LEAST_OF_A_RUN}", run.name, _HINT))
        count = sum(len(run.after) for run in found)
        if not problems and count < LEAST_POINTS:
            message = f"the runs have {count} values of {name} after their warmup, and a fit needs {LEAST_POINTS}"
            problems = [Problem("task.from", message, ", ".join(map(str, folders)), _HINT)]
        if not problems:
            break
    problems = problems or _same_rates(found)
    if problems:
        raise ConfigError(problems)
    return name, found, width


_HINT = "runs that log train/loss, or validate more often (trainer.val_every)"


def _same_rates(runs: Sequence[Losses]) -> list[Problem]:
    """Return a problem for each run whose LRs are, up to its last loss, those of an earlier one."""
    problems = []
    for index, run in enumerate(runs):
        for other in runs[:index]:
            steps = int(min(run.after[-1], len(other.rates)))
            if steps == run.after[-1] and np.allclose(run.rates[:steps], other.rates[:steps], rtol=1e-9):
                message = f"has the LRs of {other.name} at each of its steps, so it shows nothing more"
                hint = "give a branch whose LR leaves that of the trunk, such as one with a cooldown"
                problems.append(Problem("task.from", message, run.name, hint))
    return problems

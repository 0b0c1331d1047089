"""What a study notes of a trial's end, and how that is read again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrflow.errors import LrflowError, did_you_mean
from lrflow.outcome import Outcome


class UnknownMetricError(LrflowError):
    """No trial will give the metric that is asked for."""


def record_outcome(
    study: optuna.Study,
    trial: optuna.Trial,
    objectives: Sequence[str],
    outcome: Outcome,
    rank_ended_early: bool = False,
) -> None:
    """Notes how a trial ended.

    Args:
        study: of the trial.
        trial: that ended.
        objectives: the metrics that are optimised.
        outcome: of its job.
        rank_ended_early: whether a trial that ended early is judged by its metrics as one that finished.

    Raises:
        UnknownMetricError: its metrics are not those that are optimised, which no trial's would be.
    """
    metrics, outcome = outcome.metrics, outcome.judged_by(objectives)
    unknown = _unknown(metrics, objectives)
    ranks = outcome.status == "finished"
    if outcome.status == "ended_early" and rank_ended_early:
        ranks = unknown is None and all(math.isfinite(metrics[name]) for name in objectives)
    if ranks and unknown is not None:
        outcome = replace(outcome, status="failed", reason=str(unknown), error=unknown)
    trial.set_user_attr("metrics", {name: value for name, value in metrics.items() if math.isfinite(value)})
    trial.set_user_attr("seconds", round(outcome.seconds, 3))
    trial.set_user_attr("status", outcome.status)
    for name in _COUNTS:
        trial.set_user_attr(name, getattr(outcome, name))
    if outcome.reason:
        trial.set_user_attr("error", outcome.reason)
    if ranks and unknown is None:
        study.tell(trial, [metrics[name] for name in objectives])
        return
    # Samplers leave failed trials out, and would go on to try LRs that diverge: they learn from pruned ones.
    lesson = outcome.status == "pruned" or (outcome.status == "diverged" and len(objectives) == 1)
    study.tell(trial, state=TrialState.PRUNED if lesson else TrialState.FAIL)
    if isinstance(outcome.error, UnknownMetricError):
        raise outcome.error


_COUNTS = ("steps", "planned")


def _unknown(metrics: Mapping[str, float], objectives: Sequence[str]) -> UnknownMetricError | None:
    """What is optimised and not among the metrics of a job."""
    if unknown := [name for name in objectives if name not in metrics]:
        hint = did_you_mean(unknown[0], metrics) or "the task gives none"
        return UnknownMetricError(f"sweep.metric = {unknown[0]}: a trial ended without this metric; {hint}")
    return None


def status_of(trial: FrozenTrial) -> str:
    """How a trial of a study that is over ended.

    lrflow 0.1 noted no status of a trial that finished, and of one that diverged, and is a lesson, that it failed.
    """
    status = trial.user_attrs.get("status", "finished" if trial.state is TrialState.COMPLETE else "failed")
    if status == "failed" and trial.state is TrialState.PRUNED:
        status = "diverged"
    return Outcome.recorded(status).status


def recorded_outcome(trial: FrozenTrial, fixed: Sequence[str], folder: Path) -> Outcome:
    """How a trial ended, as the study has it.

    Args:
        trial: that is over.
        fixed: the overrides that every trial has.
        folder: of the sweep.
    """
    notes = trial.user_attrs
    path = folder / str(trial.number)  # of a trial that another machine ran it may be elsewhere
    return Outcome.recorded(
        status_of(trial),
        notes.get("error", "failed"),
        notes.get("metrics"),
        seconds=notes.get("seconds", 0.0),
        folder=path if path.exists() else None,
        overrides=[*fixed, *notes.get("overrides", [])],
        **{name: notes.get(name) for name in _COUNTS},
    )


def outcome_of(value: Any, failed: bool, folder: Path) -> Outcome:
    """How a job ended, from what it returned or raised."""
    if isinstance(value, Outcome) and not failed:
        return value
    error = value if failed and isinstance(value, Exception) else LrflowError(f"the job returned {value!r}")
    return Outcome.of_error(error, folder=folder)

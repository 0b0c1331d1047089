"""Outcomes of trials in the Optuna study: recorded, and read back."""

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

_COUNTS = ("steps", "planned")


class UnknownMetricError(LrflowError):
    """The trials of a sweep have no metric with the name of the objective."""


def record_outcome(
    study: optuna.Study,
    trial: optuna.Trial,
    objectives: Sequence[str],
    outcome: Outcome,
    rank_ended_early: bool = False,
) -> None:
    """Record the outcome of a trial in its study.

    Args:
        study: of the trial.
        trial: that has ended.
        objectives: the names of the metrics to optimize.
        outcome: of its job.
        rank_ended_early: whether a trial that ended early is ranked by its metrics like one that finished.

    Raises:
        UnknownMetricError: its metrics lack an objective, so those of all trials will.
    """
    metrics, outcome = outcome.metrics, outcome.checked_finite(objectives)
    unknown = _unknown_metric(metrics, objectives)
    is_ranked = outcome.status == "finished"
    if outcome.status == "ended_early" and rank_ended_early:
        is_ranked = unknown is None and all(math.isfinite(metrics[name]) for name in objectives)
    if is_ranked and unknown is not None:
        outcome = replace(outcome, status="failed", reason=str(unknown), error=unknown)
    trial.set_user_attr("metrics", {name: value for name, value in metrics.items() if math.isfinite(value)})
    trial.set_user_attr("seconds", round(outcome.seconds, 3))
    trial.set_user_attr("status", outcome.status)
    for name in _COUNTS:
        trial.set_user_attr(name, getattr(outcome, name))
    if outcome.reason:
        trial.set_user_attr("error", outcome.reason)
    if is_ranked and unknown is None:
        study.tell(trial, [metrics[name] for name in objectives])
        return
    # Samplers ignore failed trials but learn from pruned ones, so that they avoid LRs that diverge.
    counts = outcome.status == "pruned" or (outcome.status == "diverged" and len(objectives) == 1)
    study.tell(trial, state=TrialState.PRUNED if counts else TrialState.FAIL)
    if isinstance(outcome.error, UnknownMetricError):
        raise outcome.error


def recorded_outcome(trial: FrozenTrial, fixed: Sequence[str], folder: Path) -> Outcome:
    """Return the outcome of a trial that its study has recorded.

    Args:
        trial: that has ended.
        fixed: the overrides that all trials share.
        folder: of the sweep.
    """
    attributes = trial.user_attrs
    path = folder / str(trial.number)  # does not exist if another machine ran the trial elsewhere
    return Outcome.from_record(
        status_of(trial),
        attributes.get("error", "failed"),
        attributes.get("metrics"),
        seconds=attributes.get("seconds", 0.0),
        folder=path if path.exists() else None,
        overrides=[*fixed, *attributes.get("overrides", [])],
        **{name: attributes.get(name) for name in _COUNTS},
    )


def status_of(trial: FrozenTrial) -> str:
    """Return the outcome's status of a finished trial of a study.

    lrflow 0.1 recorded no status for a finished trial, and `failed` for a diverged one.
    """
    status = trial.user_attrs.get("status", "finished" if trial.state is TrialState.COMPLETE else "failed")
    if status == "failed" and trial.state is TrialState.PRUNED:
        status = "diverged"
    return Outcome.from_record(status).status


def outcome_of(value: Any, failed: bool, folder: Path) -> Outcome:
    """Return the outcome of a job from the value that it returned, or from the error that it raised."""
    if isinstance(value, Outcome) and not failed:
        return value
    error = value if failed and isinstance(value, Exception) else LrflowError(f"the job returned {value!r}")
    return Outcome.from_error(error, folder=folder)


def _unknown_metric(metrics: Mapping[str, float], objectives: Sequence[str]) -> UnknownMetricError | None:
    """Return an error that names the first objective that the metrics lack; None: they have all."""
    if unknown := [name for name in objectives if name not in metrics]:
        hint = did_you_mean(unknown[0], metrics) or "the task returns no metric"
        return UnknownMetricError(f"sweep.metric = {unknown[0]}: a trial ended without this metric; {hint}")
    return None

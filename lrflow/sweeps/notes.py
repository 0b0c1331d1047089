"""What a study notes of a trial's end, and how that is read again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrflow.errors import DivergedError, LrflowError, PrunedError, did_you_mean
from lrflow.sweeps.outcome import Outcome


class UnknownMetricError(LrflowError):
    """No trial will give the metric that is asked for."""


def note_end(study: optuna.Study, trial: optuna.Trial, objectives: Sequence[str], outcome: Outcome) -> None:
    """Notes how a trial ended.

    Args:
        study: of the trial.
        trial: that ended.
        objectives: the metrics that are optimised.
        outcome: of its job.

    Raises:
        UnknownMetricError: its metrics are not those that are optimised, which no trial's would be.
    """
    metrics = {name: float(value) for name, value in outcome.result.items() if isinstance(value, int | float)}
    error = outcome.error or _wrong_values(metrics, objectives)
    trial.set_user_attr("metrics", {name: value for name, value in metrics.items() if math.isfinite(value)})
    trial.set_user_attr("seconds", round(outcome.seconds, 3))
    if error is None:
        study.tell(trial, [metrics[name] for name in objectives])
        return
    told = str(error) if isinstance(error, LrflowError) else f"{type(error).__name__}: {error}"
    trial.set_user_attr("error", told)
    trial.set_user_attr("status", "pruned" if isinstance(error, PrunedError) else "failed")
    # Samplers leave failed trials out, and would go on to try LRs that diverge: they learn from pruned ones.
    lesson = isinstance(error, PrunedError) or (isinstance(error, DivergedError) and len(objectives) == 1)
    study.tell(trial, state=TrialState.PRUNED if lesson else TrialState.FAIL)
    if isinstance(error, UnknownMetricError):
        raise error


def _wrong_values(metrics: dict[str, float], objectives: Sequence[str]) -> LrflowError | None:
    """What is wrong with the metrics of a job that went well."""
    if unknown := [name for name in objectives if name not in metrics]:
        hint = did_you_mean(unknown[0], metrics) or "the task gives none"
        return UnknownMetricError(f"sweep.metric = {unknown[0]}: a trial ended without this metric; {hint}")
    broken = [f"{name} is {metrics[name]}" for name in objectives if not math.isfinite(metrics[name])]
    return DivergedError(", ".join(broken)) if broken else None


def noted(trial: FrozenTrial, fixed: Sequence[str], folder: Path) -> Outcome:
    """How a trial ended, as the study has it.

    Args:
        trial: that is over.
        fixed: the overrides that every trial has.
        folder: of the sweep.
    """
    notes = trial.user_attrs
    error: LrflowError | None = None
    if trial.state is not TrialState.COMPLETE:
        kind = PrunedError if notes.get("status") == "pruned" else LrflowError
        error = kind(notes.get("error", "failed"))
    given = [*fixed, *notes.get("overrides", [])]
    path = folder / str(trial.number)  # of a trial that another machine ran it may be elsewhere
    return Outcome(given, notes.get("metrics", {}), error, notes.get("seconds", 0.0), path if path.exists() else None)


def outcome_of(value: Any, failed: bool, folder: Path) -> Outcome:
    """How a job ended, from what it returned or raised."""
    if isinstance(value, Outcome) and not failed:
        return value
    error = value if failed and isinstance(value, Exception) else LrflowError(f"the job returned {value!r}")
    return Outcome([], {}, error, 0.0, folder)

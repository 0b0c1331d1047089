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
from lrflow.files import write_json
from lrflow.outcome import Outcome
from lrflow.sweeps.folders import TRIAL_RECORD
from lrflow.sweeps.repeats import is_ranked as is_ranked_run
from lrflow.sweeps.repeats import spreads

_COUNTS = ("steps", "planned")
_RUN = "run "
"""Start of the attributes of a trial that hold how each of its repeats ended."""


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
    is_ranked = outcome.status == "finished" or (outcome.status == "pruned" and was_stopped(outcome))
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
    if outcome.runs:
        _write_trial(trial.number, outcome, rank_ended_early)
        found = {name: each for name, each in spreads(outcome.runs, rank_ended_early).items() if each.count > 1}
        trial.set_user_attr("counted", sum(is_ranked_run(run, rank_ended_early) for run in outcome.runs))
        trial.set_user_attr("std", {name: each.std for name, each in found.items() if math.isfinite(each.std)})
        trial.set_user_attr("stderr", {name: each.error for name, each in found.items() if math.isfinite(each.std)})
    if is_ranked and unknown is None:
        study.tell(trial, [metrics[name] for name in objectives])
        return
    # Samplers ignore failed trials but learn from pruned ones, so that they avoid LRs that diverge.
    counts = outcome.status == "pruned" or (outcome.status == "diverged" and len(objectives) == 1)
    study.tell(trial, state=TrialState.PRUNED if counts else TrialState.FAIL)
    if isinstance(outcome.error, UnknownMetricError):
        raise outcome.error


def _write_trial(number: int, outcome: Outcome, rank_ended_early: bool) -> None:
    """Write how a trial of several runs ended into the folder of its first run: means, spreads, and its runs."""
    folder = outcome.runs[0].folder
    if folder is None or not folder.exists():
        return
    found = {name: each for name, each in spreads(outcome.runs, rank_ended_early).items() if each.count > 1}
    runs = [
        {"folder": run.folder and run.folder.name, "status": run.status, "metrics": dict(run.metrics)}
        for run in outcome.runs
    ]
    spread = {name: {"std": each.std, "stderr": each.error, "runs": each.count} for name, each in found.items()}
    write_json(folder / TRIAL_RECORD, {"trial": number, **outcome.summary(spread=spread, runs=runs)})


def was_stopped(outcome: Outcome) -> bool:
    """Whether a trial was stopped between its runs, so that it has the mean of those that it made."""
    return bool(outcome.runs) and outcome.runs[0].status != "pruned"


def record_run(trial: optuna.Trial, repeat: int, job: int, outcome: Outcome) -> None:
    """Record how a run of a trial ended that has several.

    Args:
        trial: of the study.
        repeat: which of its runs this is.
        job: its number, which is the name of its folder.
        outcome: of the run.
    """
    content = outcome.summary(job=job)
    content["metrics"] = {name: value for name, value in outcome.metrics.items() if math.isfinite(value)}
    trial.set_user_attr(f"{_RUN}{repeat}", content)


def recorded_runs(trial: FrozenTrial | optuna.Trial, folder: Path) -> dict[int, Outcome]:
    """Return how the runs of a trial ended, by the number of the repeat, as its study has recorded it.

    Args:
        trial: of the study.
        folder: of the sweep.
    """
    found = {}
    for key, content in trial.user_attrs.items():
        repeat = key.removeprefix(_RUN)
        if key != repeat and repeat.isdecimal():
            path = folder / str(content.get("job"))  # does not exist if another machine ran it elsewhere
            if ended := Outcome.from_summary(content, path if path.exists() else None):
                found[int(repeat)] = ended
    return dict(sorted(found.items()))


def recorded_outcome(trial: FrozenTrial, fixed: Sequence[str], folder: Path, repeats: int = 1) -> Outcome:
    """Return the outcome of a trial that its study has recorded.

    Args:
        trial: that has ended.
        fixed: the overrides that all trials share.
        folder: of the sweep.
        repeats: number of runs of a trial.
    """
    attributes = trial.user_attrs
    path = folder / str(trial.number * repeats)  # does not exist if another machine ran the trial elsewhere
    return Outcome.from_record(
        status_of(trial),
        attributes.get("error", "failed"),
        attributes.get("metrics"),
        seconds=attributes.get("seconds", 0.0),
        folder=path if path.exists() else None,
        overrides=[*fixed, *attributes.get("overrides", [])],
        runs=tuple(recorded_runs(trial, folder).values()),
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

"""Progress of a running sweep (a live table or one line per trial), and trial outcomes in the Optuna study."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lrflow.config.overrides import values_of
from lrflow.config.sweep import Sweep
from lrflow.display import QuietConsole
from lrflow.errors import LrflowError, did_you_mean
from lrflow.outcome import STATUSES, Outcome
from lrflow.runs import RunFolder

MAX_ROWS = 8
"""Trials in the live table: the best ones and the running ones."""


class Progress:
    """Prints the progress of a sweep: a live table on a terminal, otherwise one line per trial.

    Args:
        settings: of the sweeper.
        n_trials: of the whole sweep.
    """

    def __init__(self, settings: Sweep, n_trials: int) -> None:
        self._settings, self._n_trials = settings, n_trials
        # Jobs redirect `sys.stdout` to their folders; progress goes to the stdout that the sweep started with.
        self._console = QuietConsole(file=sys.stdout, highlight=False, markup=False)
        self._live: Live | None = None
        self._trials: Sequence[FrozenTrial] = ()
        self._reported: set[int] | None = None
        self._started = time.monotonic()
        self._resumed_with = 0  # trials that had ended before
        self._folder = Path()

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._table, refresh_per_second=2, redirect_stdout=False,
                redirect_stderr=False, transient=True,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def print(self, text: str) -> None:
        """Print a line."""
        self._console.print(Text(text), soft_wrap=True)

    def update(self, trials: Sequence[FrozenTrial], folder: Path) -> None:
        """Report the trials that have ended since the last update.

        Args:
            trials: of the study, as they are now.
            folder: of the sweep.
        """
        ended = {trial.number for trial in trials if trial.state.is_finished()}
        if self._reported is None:
            self._resumed_with, self._folder = len(ended), folder
            count = f"{len(ended)} of {self._n_trials} trials are done" if ended else f"{self._n_trials} trials"
            self.print(f"sweep by {self._settings.sampler}, {count}, in {folder}/")
        elif self._live is None:
            for trial in trials:
                if trial.number in ended - self._reported:
                    self._console.print(self._line(trial, trials), soft_wrap=True)
        self._reported, self._trials = ended, list(trials)

    def _line(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> Text:
        given = "  ".join(trial.user_attrs.get("overrides", []))
        best = next(iter(self._ranked(trials)), None)
        suffix = f"  (best: trial {best.number}, {_value(best)})" if best is not None and best is not trial else ""
        seconds = trial.user_attrs.get("seconds", 0.0)
        return Text.assemble(
            (f"trial {trial.number}", "bold"), f"  {given}  {self._result(trial)}  {seconds:.1f} s{suffix}"
        )

    def _result(self, trial: FrozenTrial) -> str:
        complete = trial.state is TrialState.COMPLETE
        values = zip(self._settings.objectives, trial.values if complete else (), strict=complete)
        reason = str(trial.user_attrs.get("error", "" if complete else trial.state.name.lower())).partition("\n")[0]
        return "  ".join([*(f"{each.name} {value:.4g}" for each, value in values), *filter(None, [reason])])

    def _ranked(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the complete trials, the best by the first objective first."""
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        return sorted(complete, key=lambda trial: self._settings.objectives[0].cost(trial.values[0]))

    def _table(self) -> RenderableType:
        trials = self._trials
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("trial", justify="right")
        best = self._ranked(trials)[: max(1, MAX_ROWS - len(running))]
        keys = list(dict.fromkeys(key for trial in [*best, *running] for key in _given(trial)))
        for key in keys:
            short = key.rpartition(".")[2]
            table.add_column(short if sum(k.rpartition(".")[2] == short for k in keys) == 1 else key, justify="right")
        table.add_column(", ".join(each.name for each in self._settings.objectives), justify="right")

        def add(trial: FrozenTrial, result: str, style: str) -> None:
            given = _given(trial)
            table.add_row(str(trial.number), *(given.get(key, "") for key in keys), result, style=style)

        for trial in best:
            add(trial, _value(trial), "green" if trial is best[0] else "")
        for trial in running[: MAX_ROWS - 1]:
            add(trial, self._status(trial), "cyan")
        statuses = [status_of(trial) for trial in trials if trial.state.is_finished()]
        counts = {status: statuses.count(status) for status in STATUSES} | {"running": len(running)}
        summary = "  ".join(f"{count} {name}" for name, count in counts.items() if count)
        return Group(table, Text(f"{summary} of {self._n_trials}{self._remaining(len(statuses))}", "dim"))

    def _status(self, trial: FrozenTrial) -> str:
        """Return the status that a running trial has written into its folder."""
        summary: dict[str, Any] = RunFolder(self._folder / str(trial.number)).read_summary()
        return str(summary.get("status", "runs"))

    def _remaining(self, ended: int) -> str:
        """Return the time that the sweep still takes, in words; empty if no trial has ended since it started."""
        ended -= self._resumed_with
        if ended <= 0:
            return ""
        left = (time.monotonic() - self._started) / ended * (self._n_trials - ended - self._resumed_with)
        return f", about {_time(left)} left"


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


_COUNTS = ("steps", "planned")


def _unknown_metric(metrics: Mapping[str, float], objectives: Sequence[str]) -> UnknownMetricError | None:
    """Return an error that names the first objective that the metrics lack; None: they have all."""
    if unknown := [name for name in objectives if name not in metrics]:
        hint = did_you_mean(unknown[0], metrics) or "the task returns no metric"
        return UnknownMetricError(f"sweep.metric = {unknown[0]}: a trial ended without this metric; {hint}")
    return None


def _given(trial: FrozenTrial) -> dict[str, str]:
    return values_of(trial.user_attrs.get("overrides", []))


def _value(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.4g}" for value in trial.values)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

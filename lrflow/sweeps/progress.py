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
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lrflow.config.overrides import values_of
from lrflow.config.sweep import Sweep
from lrflow.errors import LrflowError, did_you_mean
from lrflow.outcome import STATUSES, Outcome


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
    metrics, outcome = outcome.metrics, outcome.checked_finite(objectives)
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
    return Outcome.from_record(status).status


def recorded_outcome(trial: FrozenTrial, fixed: Sequence[str], folder: Path) -> Outcome:
    """How a trial ended, as the study has it.

    Args:
        trial: that is over.
        fixed: the overrides that every trial has.
        folder: of the sweep.
    """
    notes = trial.user_attrs
    path = folder / str(trial.number)  # of a trial that another machine ran it may be elsewhere
    return Outcome.from_record(
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
    return Outcome.from_error(error, folder=folder)


SHOWN = 8
"""Trials in the live table: the best ones, and those that run."""


class Progress:
    """Follows the trials of a sweep.

    Args:
        settings: the sweeper's.
        n_trials: in all.
    """

    def __init__(self, settings: Sweep, n_trials: int) -> None:
        self._settings, self._n_trials = settings, n_trials
        # The jobs' own output goes into their folders; this goes where it went when the sweep began.
        self._console = Console(file=sys.stdout, highlight=False, markup=False)
        self._live: Live | None = None
        self._trials: Sequence[FrozenTrial] = ()
        self._told: set[int] | None = None
        self._started = time.monotonic()
        self._before = 0
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

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(Text(text), soft_wrap=True)

    def look(self, trials: Sequence[FrozenTrial], folder: Path) -> None:
        """Takes the trials as they are now, and tells of those that have ended since.

        Args:
            trials: of the study.
            folder: of the sweep.
        """
        over = {trial.number for trial in trials if trial.state.is_finished()}
        if self._told is None:
            self._before, self._folder = len(over), folder
            begun = f"{len(over)} of {self._n_trials} trials are done" if over else f"{self._n_trials} trials"
            self.say(f"sweep by {self._settings.sampler}, {begun}, in {folder}/")
        elif self._live is None:
            for trial in trials:
                if trial.number in over - self._told:
                    self._console.print(self._line(trial, trials), soft_wrap=True)
        self._told, self._trials = over, list(trials)

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
        told = zip(self._settings.objectives, trial.values if complete else (), strict=complete)
        why = str(trial.user_attrs.get("error", "" if complete else trial.state.name.lower())).partition("\n")[0]
        return "  ".join([*(f"{each.name} {value:.4g}" for each, value in told), *filter(None, [why])])

    def _ranked(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that ended well, the best by the first objective first."""
        done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        return sorted(done, key=lambda trial: self._settings.objectives[0].cost(trial.values[0]))

    def _table(self) -> RenderableType:
        trials = self._trials
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("trial", justify="right")
        best = self._ranked(trials)[: max(1, SHOWN - len(running))]
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
        for trial in running[: SHOWN - 1]:
            add(trial, self._so_far(trial), "cyan")
        over = [status_of(trial) for trial in trials if trial.state.is_finished()]
        counts = {status: over.count(status) for status in STATUSES} | {"running": len(running)}
        told = "  ".join(f"{count} {name}" for name, count in counts.items() if count)
        return Group(table, Text(f"{told} of {self._n_trials}{self._left(len(over))}", "dim"))

    def _so_far(self, trial: FrozenTrial) -> str:
        """What a running trial's folder says already."""
        from lrflow.runs import RunFolder

        summary: dict[str, Any] = RunFolder(self._folder / str(trial.number)).read_summary()
        return str(summary.get("status", "runs"))

    def _left(self, over: int) -> str:
        over -= self._before
        if over <= 0:
            return ""
        left = (time.monotonic() - self._started) / over * (self._n_trials - over - self._before)
        return f", about {_time(left)} left"


def _given(trial: FrozenTrial) -> dict[str, str]:
    return values_of(trial.user_attrs.get("overrides", []))


def _value(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.4g}" for value in trial.values)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Progress of a running sweep: a live table on a terminal, otherwise one line per trial."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lrflow.config.composition.overrides import values_of
from lrflow.config.schemas.sweep import Sweep
from lrflow.display import QuietConsole
from lrflow.outcome import STATUSES
from lrflow.runs import RunFolder
from lrflow.sweeps.outcomes import recorded_runs, status_of
from lrflow.wording import counted, duration

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
            planned = counted(self._n_trials, "trial")
            count = f"{len(ended)} of {planned} {'is' if self._n_trials == 1 else 'are'} done" if ended else planned
            count += f", each of {self._settings.repeats} runs" if self._settings.repeats > 1 else ""
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
        spread = trial.user_attrs.get("std", {})
        texts = [f"{each.name} {value:.4g}{_plus_minus(spread.get(each.name))}" for each, value in values]
        return "  ".join([*texts, *filter(None, [reason])])

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
        """Return the status that a running trial has written into its folder, or how many of its runs have ended."""
        if (repeats := self._settings.repeats) > 1:
            return f"{len(recorded_runs(trial, self._folder))} of {repeats} runs"
        summary: dict[str, Any] = RunFolder(self._folder / str(trial.number)).read_summary()
        return str(summary.get("status", "runs"))

    def _remaining(self, ended: int) -> str:
        """Return the time that the sweep still takes, in words; empty if no trial has ended since it started."""
        ended -= self._resumed_with
        if ended <= 0:
            return ""
        left = (time.monotonic() - self._started) / ended * (self._n_trials - ended - self._resumed_with)
        return f", about {duration(round(left))} left"


def _given(trial: FrozenTrial) -> dict[str, str]:
    return values_of(trial.user_attrs.get("overrides", []))


def _value(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.4g}" for value in trial.values)


def _plus_minus(std: float | None) -> str:
    return "" if std is None else f" ± {std:.2g}"

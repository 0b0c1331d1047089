"""What a sweep tells while it runs: one live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lrflow.config.overrides import values_of
from lrflow.config.sweep import Sweep
from lrflow.outcome import STATUSES
from lrflow.sweeps.notes import status_of

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

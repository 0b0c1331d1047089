"""The trials of a sweep and their runs: drawn, claimed by workers, restarted after crashes, recorded."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrflow.config.schemas.sweep import Sweep
from lrflow.errors import LrflowError, StoppedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder, checkpoints_in
from lrflow.seal import newest_undamaged
from lrflow.sweeps.folders import typed_values
from lrflow.sweeps.outcomes import record_outcome, record_run, recorded_outcome, recorded_runs
from lrflow.sweeps.progress import Progress
from lrflow.sweeps.runs import OpenTrial, PendingRun, verdict
from lrflow.sweeps.space import Space
from lrflow.sweeps.study import is_database, quiet_optuna
from lrflow.wording import counted


class Trials:
    """The trials of a sweep; workers in several threads may claim and record their runs.

    Args:
        study: of Optuna.
        space: the search space.
        settings: of the sweeper.
        n_trials: of the whole sweep.
        folder: of the sweep; run r of trial n is job `n * repeats + r`, and runs in the subfolder of that name.
        progress: reports the trials to the user.
        may_begin: whether a further trial may begin.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        settings: Sweep,
        n_trials: int,
        folder: Path,
        progress: Progress,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._study, self._space, self._settings = study, space, settings
        self._n_trials, self._folder, self._progress, self._may_begin = n_trials, folder, progress, may_begin
        self._repeats = settings.repeats
        self._names = [each.name for each in settings.objectives]
        self._is_shared = is_database(settings.storage)
        self._lock = threading.Lock()  # the sampler draws one trial at a time, from the outcomes of those before
        self._changed = threading.Condition(self._lock)  # notified when a run has ended
        self._open: dict[int, OpenTrial] = {}
        self._claimed: set[int] = set()  # trials that this process opens or has opened
        self.closed = False  # whether claims are refused

    def all(self) -> list[FrozenTrial]:
        """Return all trials that the study has now."""
        return self._study.get_trials(deepcopy=False)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of all finished trials, without those that were run again under another number."""
        fixed = [text.removeprefix("++") for text in self._space.fixed]
        replaced = _replaced(trials := self.all())
        finished = [trial for trial in trials if trial.state.is_finished() and trial.number not in replaced]
        return [recorded_outcome(trial, fixed, self._folder, self._repeats) for trial in finished]

    def update_progress(self) -> None:
        """Report the trials as they are now."""
        with self._lock:
            self._update_progress()

    def claim(self, count: int, trials: int | None = None) -> list[PendingRun]:
        """Claim the next runs: first those whose process died, then those of trials that have begun, then new ones.

        Args:
            count: the number of runs, at most.
            trials: the number of trials that may be open at once; None: any number, and the further runs of a trial
                wait for its first if that may be pruned.

        Returns:
            runs that no other worker gets until they are released; empty: none is left.
        """
        batch: list[PendingRun] = []
        while not batch:
            with self._lock:
                dead = self._take_dead(count)
            for number, runs in dead.items():  # without the lock, so that other workers can go on
                for run in runs:
                    self._wait_for(self._run_folder(number, run))
            with self._lock:
                for number, runs in dead.items():
                    self._look_at(number, runs)
                batch += self._next(count, trials, draw=not dead)  # samplers learn from those that have ended
                self._update_progress()
            if not (batch or dead or self._waits()):
                break
        return batch

    def release(self, jobs: Sequence[PendingRun], reasons: Sequence[str] = ()) -> None:
        """Release runs with an unknown outcome, because their process may have died.

        Args:
            jobs: the runs.
            reasons: how their processes died, if that is known.
        """
        with self._lock:
            for pending, reason in zip(jobs, reasons, strict=bool(reasons)):
                pending.trial.set_user_attr(self._attribute("death", pending.repeat), reason)
            for pending in jobs:
                found = self._open[pending.trial.number]
                found.running.discard(pending.repeat)
                found.lost.add(pending.repeat)
            self._changed.notify_all()

    def record(self, jobs: Sequence[PendingRun], outcomes: Sequence[Outcome]) -> None:
        """Record the outcomes of runs.

        Raises:
            StoppedError: a run was asked to stop, and so the sweep stops too.
            UnknownMetricError: the trials have no metric of that name.
        """
        stopped: StoppedError | None = None
        with self._lock:
            for pending, outcome in zip(jobs, outcomes, strict=True):
                found = self._open[pending.trial.number]
                found.running.discard(pending.repeat)
                if isinstance(outcome.error, StoppedError):
                    stopped = outcome.error
                    found.lost.add(pending.repeat)
                else:
                    self._end(found, pending.repeat, outcome)
            self._changed.notify_all()
        if stopped:
            raise stopped

    def _waits(self) -> bool:
        """Wait until a run ends on which further runs of its trial depend; return whether there was one."""
        with self._changed:
            trials = self._open.values()
            if self.closed or not any(found.running and found.open_runs(self._repeats) for found in trials):
                return False
            self._changed.wait(1.0)
        return True

    def are_left(self) -> bool:
        """Whether any trial has not ended or was not drawn."""
        replaced = _replaced(trials := self.all())
        return sum(t.state.is_finished() and t.number not in replaced for t in trials) < self._n_trials

    def held(self) -> list[int]:
        """Return the ids in the study's storage of the trials that this process has claimed."""
        return [found.trial._trial_id for found in tuple(self._open.values())]

    def close(self) -> list[RunFolder]:
        """Refuse further claims.

        Returns:
            the folders of the claimed runs.
        """
        self.closed = True
        return [
            self._run_folder(number, run) for number, found in tuple(self._open.items()) for run in tuple(found.running)
        ]

    def _update_progress(self) -> None:
        self._progress.update(self.all(), self._folder)

    def _job(self, number: int, run: int) -> int:
        return number * self._repeats + run

    def _run_folder(self, number: int, run: int) -> RunFolder:
        return RunFolder(self._folder / str(self._job(number, run)))

    def _attribute(self, name: str, run: int) -> str:
        """Return the name of an attribute of a trial about one of its runs."""
        return name if self._repeats == 1 else f"{name} {run}"

    def _take_dead(self, count: int) -> dict[int, list[int]]:
        """Claim trials that the study has as running and that no living process of this machine runs.

        Returns:
            the runs of each whose outcome has to be looked for.
        """
        if self.closed:
            return {}
        if self._is_shared:
            with quiet_optuna():
                optuna.storages.fail_stale_trials(self._study)
        dead: dict[int, list[int]] = {}
        for number, found in self._open.items():
            if found.lost:
                dead[number], found.lost = sorted(found.lost), set()
                found.running |= {*dead[number]}
        for trial in self.all():
            if len(dead) < count and self._may_take_over(trial):
                self._claimed.add(trial.number)
                known = recorded_runs(trial, self._folder)
                begun = [run for run in range(self._repeats) if self._run_folder(trial.number, run).path.exists()]
                dead[trial.number] = [run for run in begun if run not in known] if self._repeats > 1 else [0]
        return dead

    def _may_take_over(self, trial: FrozenTrial) -> bool:
        """Whether this process may restart a trial that the study has as running: no other process is running it."""
        if trial.state is not TrialState.RUNNING or trial.number in self._claimed:
            return False
        if not self._is_shared:
            return True
        host, _, process = str(trial.user_attrs.get("owner", "")).rpartition(":")
        return host == socket.gethostname() and (int(process) == os.getpid() or not _is_alive(int(process)))

    def _next(self, count: int, trials: int | None, draw: bool) -> list[PendingRun]:
        """Claim runs of the trials that are open, and of new ones; fewer than `count` if fewer are left."""
        batch: list[PendingRun] = []
        while len(batch) < count and not self.closed:
            if found := self._next_run(waits=trials is None):
                batch.append(found)
            elif not draw or (trials is not None and len(self._open) >= trials) or not self._draw():
                break
        return batch

    def _next_run(self, waits: bool) -> PendingRun | None:
        """Claim a run of the trials that are open; None: there is none now."""
        for number, found in sorted(self._open.items()):
            runs = found.open_runs(self._repeats)
            if waits and self._settings.pruner not in ("none", "race") and 0 not in found.ended:
                runs = [run for run in runs if run == 0]
            if runs and self._verdict(found) is None:
                found.running.add(runs[0])
                checkpoint = found.checkpoints.get(runs[0])
                return PendingRun(found.trial, found.assignment, checkpoint, runs[0], self._job(number, runs[0]))
            self._conclude(found)
        return None

    def _draw(self) -> bool:
        """Begin a new trial; return whether there was one left."""
        replaced = _replaced(trials := self.all())
        begun = [t for t in trials if t.state is not TrialState.WAITING and t.number not in replaced]
        if len(begun) >= self._n_trials or not self._may_begin():
            return False
        with quiet_optuna():
            trial = self._study.ask()
            self._opened(trial, recorded_runs(trial, self._folder))  # one that a dead machine began has some
        return True

    def _opened(self, trial: optuna.Trial, ended: Mapping[int, Outcome] | None = None) -> OpenTrial:
        """Draw the values of a trial, record them and its owner, and open it."""
        self._claimed.add(trial.number)
        assignment = self._space.suggest(trial)
        trial.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
        trial.set_user_attr("overrides", [f"{key}={value}" for key, value in assignment.items()])
        found = self._open[trial.number] = OpenTrial(trial, assignment, dict(ended or {}))
        return found

    def add_lost(self) -> None:
        """Add the trials to the study that have a run folder but were lost with the study's journal.

        They count as trials whose process died: those that ended are read from their folders, and the others resumed.
        """
        known = {trial.number for trial in self.all()}
        folders = {int(path.name) // self._repeats for path in self._folder.iterdir() if path.name.isdecimal()}
        lost = range(max(known, default=-1) + 1, min(max(folders, default=-1) + 1, self._n_trials))
        if not lost:
            return
        with quiet_optuna():
            for number in lost:
                self._study.enqueue_trial(self._values_in(number))
            for _ in lost:
                self._opened(self._study.ask())
        self._open.clear()
        self._claimed.clear()
        self._progress.print(f"the study has lost {counted(len(lost), 'trial')}; read from the run folders")

    def _values_in(self, number: int) -> dict[str, Any]:
        """Return the parameters of a trial from the config in a run folder; empty: they are drawn again."""
        for run in range(self._repeats):
            try:
                return self._space.values(typed_values(self._run_folder(number, run).path))
            except (KeyError, ValueError):
                continue
        return {}

    def _look_at(self, number: int, runs: Sequence[int]) -> None:
        """Open a trial whose process died, and record its runs that have ended; the others will be resumed."""
        dead = next(trial for trial in self.all() if trial.number == number)
        lost = "overrides" not in dead.user_attrs  # it was never launched, or the journal has lost its end
        if (found := self._open.get(number)) is None:
            if lost and (values := self._values_in(number)):
                self._study._storage.set_trial_system_attr(dead._trial_id, "fixed_params", values)
            found = self._opened(optuna.Trial(self._study, dead._trial_id), recorded_runs(dead, self._folder))
        found.running -= {*runs}
        left = []
        for run in runs:
            folder = self._run_folder(number, run)
            outcome = Outcome.from_summary(folder.read_summary(), folder.path)
            if outcome and outcome.status != "stopped":
                self._end(found, run, outcome)
            else:
                left.append((run, folder, outcome is not None))
        for run, folder, was_stopped in left:
            if self._verdict(found) is None:
                self._restart(found, dead, run, folder, 0 if was_stopped else 1, lost)
        self._conclude(found)

    def _restart(self, found: OpenTrial, dead: FrozenTrial, run: int, folder: RunFolder, died: int, lost: bool) -> None:
        """Resume a run whose process died from its last checkpoint; it has failed if that happened too often."""
        checkpoint = newest_undamaged(checkpoints_in(folder.checkpoints))
        name = checkpoint.name if checkpoint else None
        at, deaths, death = (self._attribute(word, run) for word in ("checkpoint", "deaths", "death"))
        # A run that gets further each time is not to blame for the death of its process; another one may be.
        before = dead.user_attrs.get(deaths, 0) if name == dead.user_attrs.get(at) else 0
        cause = dead.user_attrs.get(death, "its process died")
        if not lost:
            found.trial.set_user_attr(deaths, before + died)
            found.trial.set_user_attr(at, name)
            if before + died > self._settings.retries:
                times = f"its process died more than {counted(self._settings.retries, 'time')}"
                error = LrflowError(f"{times}: {cause}" if death in dead.user_attrs else times)
                outcome = Outcome.from_error(error, folder=folder.path)
                if folder.config.exists():
                    folder.write_summary(outcome.summary())
                self._end(found, run, outcome)
                return
            which = f"trial {dead.number}" if self._repeats == 1 else f"run {run} of trial {dead.number}"
            self._progress.print(f"{which}: {cause}; it is run again")
        found.checkpoints[run] = checkpoint

    def _wait_for(self, folder: RunFolder) -> None:
        """Wait for a run that outlived its sweep."""
        if holder := folder.holder():
            self._progress.print(f"{folder.path}: waiting for process {holder}, which still runs this trial")
        while folder.holder():
            time.sleep(1)

    def _end(self, found: OpenTrial, run: int, outcome: Outcome) -> None:
        """Record how a run ended, and its trial if it is the last."""
        found.ended[run] = outcome.checked_finite(self._names)
        if self._repeats > 1:
            record_run(found.trial, run, self._job(found.trial.number, run), found.ended[run])
        self._conclude(found)

    def _verdict(self, found: OpenTrial) -> Outcome | None:
        """Return the outcome of a trial; None: it needs further runs."""
        return verdict(found, self._settings, self.all, self._folder)

    def _conclude(self, found: OpenTrial) -> None:
        """Record the outcome of a trial if none of its runs is running and it needs no further one."""
        if found.running or found.trial.number not in self._open or (outcome := self._verdict(found)) is None:
            return
        del self._open[found.trial.number]
        try:
            record_outcome(self._study, found.trial, self._names, outcome, self._settings.rank_ended_early)
        finally:
            self._update_progress()


def _replaced(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of trials in a database that are run again under another number, as their machine died."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

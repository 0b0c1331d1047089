"""The trials of a sweep: drawn, claimed by workers, launched as jobs, restarted after crashes, recorded."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrflow.config.overrides import quoted
from lrflow.config.sweep_schema import Sweep
from lrflow.display import counted
from lrflow.errors import LrflowError, StoppedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder, checkpoints_in
from lrflow.seal import newest_undamaged
from lrflow.sweeps.folders import typed_values
from lrflow.sweeps.outcomes import record_outcome, recorded_outcome
from lrflow.sweeps.progress import Progress
from lrflow.sweeps.space import Assignment, Space
from lrflow.sweeps.study import is_database, quiet_optuna, storage_of


@dataclass(frozen=True)
class PendingTrial:
    """A trial to be launched.

    Args:
        trial: of the study.
        assignment: its values of the swept keys.
        checkpoint: to resume from; None: the trial starts from the beginning.
    """

    trial: optuna.Trial
    assignment: Assignment
    checkpoint: Path | None = None

    @property
    def number(self) -> int:
        """The number of the trial, of its job and of its folder."""
        return self.trial.number


def overrides_of(pending: PendingTrial, space: Space, settings: Sweep, study: str, folder: Path) -> list[str]:
    """Return the overrides of a job: its values, the keys of `trial`, and the checkpoint to resume from.

    Args:
        pending: the trial.
        space: the search space.
        settings: of the sweeper.
        study: the study's name.
        folder: of the sweep.
    """
    trial = {"number": pending.number, "study": study, "storage": storage_of(settings.storage, folder)}
    trial |= {"metric": settings.metric, "mode": settings.mode}  # the run uses them too
    if settings.rank_ended_early:
        trial |= {"rank_ended_early": True}
    if settings.pruner != "none":
        trial |= {"pruner": settings.pruner}
    texts = [f"++trial.{key}={quoted(value)}" for key, value in trial.items()]
    if settings.pruner != "none":
        texts += [f"++trial.pruning.{key}={value}" for key, value in settings.pruning.model_dump().items()]
    texts += [f"++resume.from={quoted(pending.checkpoint)}"] if pending.checkpoint else []
    return [*space.overrides(pending.assignment), *texts]


def consecutive_trials(batch: Sequence[PendingTrial]) -> Iterator[list[PendingTrial]]:
    """Yield groups of consecutively numbered trials, as launchers number their jobs."""
    part: list[PendingTrial] = []
    for pending in sorted(batch, key=lambda pending: pending.number):
        if part and pending.number != part[-1].number + 1:
            yield part
            part = []
        part.append(pending)
    if part:
        yield part


class Trials:
    """The trials of a sweep; workers in several threads may claim and record them.

    Args:
        study: of Optuna.
        space: the search space.
        settings: of the sweeper.
        n_trials: of the whole sweep.
        folder: of the sweep; trial n runs in its subfolder n.
        progress: reports the trials to the user.
    """

    def __init__(
        self, study: optuna.Study, space: Space, settings: Sweep, n_trials: int, folder: Path, progress: Progress
    ) -> None:
        self._study, self._space, self._settings = study, space, settings
        self._n_trials, self._folder, self._progress = n_trials, folder, progress
        self._is_shared = is_database(settings.storage)
        self._lock = threading.Lock()  # the sampler draws one trial at a time, from the outcomes of those before
        self._claimed: set[int] = set()
        self.closed = False  # whether claims are refused

    def all(self) -> list[FrozenTrial]:
        """Return all trials that the study has now."""
        return self._study.get_trials(deepcopy=False)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of all finished trials, without those that were run again under another number."""
        fixed = [text.removeprefix("++") for text in self._space.fixed]
        replaced = _replaced(trials := self.all())
        finished = [trial for trial in trials if trial.state.is_finished() and trial.number not in replaced]
        return [recorded_outcome(trial, fixed, self._folder) for trial in finished]

    def update_progress(self) -> None:
        """Report the trials as they are now."""
        with self._lock:
            self._update_progress()

    def claim(self, count: int) -> list[PendingTrial]:
        """Claim the next trials: first those whose process died, then new ones.

        Args:
            count: the number of trials, at most.

        Returns:
            trials that no other worker gets until they are released; empty: no trial is left.
        """
        batch: list[PendingTrial] = []
        while not batch:
            with self._lock:
                dead = self._claim_dead(count)
            for trial in dead:  # without the lock, so that other workers can go on
                self._wait_for(RunFolder(self._folder / str(trial.number)))
            with self._lock:
                batch += [pending for trial in dead if (pending := self._restarted(trial))]
                if batch or not dead:  # samplers learn from those that are read from their folders
                    batch += self._draw(count - len(batch))
                self._update_progress()
            if not dead:
                break
        return batch

    def release(self, jobs: Sequence[PendingTrial]) -> None:
        """Release trials with an unknown outcome, because their process may have died."""
        with self._lock:
            self._claimed -= {pending.number for pending in jobs}

    def record(self, jobs: Sequence[PendingTrial], outcomes: Sequence[Outcome]) -> None:
        """Record the outcomes of trials.

        Raises:
            StoppedError: a trial was asked to stop, and so the sweep stops too.
            UnknownMetricError: the trials have no metric of that name.
        """
        stopped: StoppedError | None = None
        with self._lock:
            for pending, outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome.error, StoppedError):
                    stopped = outcome.error
                else:
                    self._record(pending.trial, outcome)
            self._claimed -= {pending.number for pending in jobs}
        if stopped:
            raise stopped

    def are_left(self) -> bool:
        """Whether any trial has not ended or was not drawn."""
        replaced = _replaced(trials := self.all())
        return sum(t.state.is_finished() and t.number not in replaced for t in trials) < self._n_trials

    def close(self) -> list[RunFolder]:
        """Refuse further claims.

        Returns:
            the folders of the claimed trials.
        """
        self.closed = True
        return [RunFolder(self._folder / str(number)) for number in tuple(self._claimed)]

    def _update_progress(self) -> None:
        self._progress.update(self.all(), self._folder)

    def _claim_dead(self, count: int) -> list[FrozenTrial]:
        """Claim trials that the study has as running and that no living process of this machine runs."""
        if self.closed:
            return []
        if self._is_shared:
            with quiet_optuna():
                optuna.storages.fail_stale_trials(self._study)
        running = [trial for trial in self.all() if trial.state is TrialState.RUNNING]
        dead = [t for t in running if t.number not in self._claimed and self._may_take_over(t)][:count]
        self._claimed |= {trial.number for trial in dead}
        return dead

    def _may_take_over(self, trial: FrozenTrial) -> bool:
        """Whether this process may restart a trial that the study has as running: no other process is running it."""
        if not self._is_shared:
            return True
        host, _, process = str(trial.user_attrs.get("owner", "")).rpartition(":")
        return host == socket.gethostname() and (int(process) == os.getpid() or not _is_alive(int(process)))

    def _draw(self, count: int) -> list[PendingTrial]:
        """Return new trials; fewer than `count` if fewer are left."""
        replaced = _replaced(trials := self.all())
        begun = [t for t in trials if t.state is not TrialState.WAITING and t.number not in replaced]
        left = 0 if self.closed else self._n_trials - len(begun)
        drawn = []
        for _ in range(min(count, left)):
            with quiet_optuna():
                drawn.append(self._ready(self._study.ask()))
        return drawn

    def _ready(self, trial: optuna.Trial, checkpoint: Path | None = None) -> PendingTrial:
        """Draw the values of a trial, record them and its owner, and return it."""
        self._claimed.add(trial.number)
        assignment = self._space.suggest(trial)
        trial.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
        trial.set_user_attr("overrides", [f"{key}={value}" for key, value in assignment.items()])
        return PendingTrial(trial, assignment, checkpoint)

    def add_lost(self) -> None:
        """Add the trials to the study that have a run folder but were lost with the study's journal.

        They count as trials whose process died: those that ended are read from their folders, and the others resumed.
        """
        known = {trial.number for trial in self.all()}
        folders = {int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()}
        lost = range(max(known, default=-1) + 1, min(max(folders, default=-1) + 1, self._n_trials))
        if not lost:
            return
        with quiet_optuna():
            for number in lost:
                self._study.enqueue_trial(self._values_in(number))
            for _ in lost:
                trial = self._study.ask()
                self._ready(trial)
        self._claimed.clear()
        self._progress.print(f"the study has lost {counted(len(lost), 'trial')}; read from the run folders")

    def _values_in(self, number: int) -> dict[str, Any]:
        """Return the parameters of a trial from the config in its run folder; empty: they are drawn again."""
        given = typed_values(self._folder / str(number))
        try:
            return self._space.values(given)
        except (KeyError, ValueError):
            return {}

    def _restarted(self, dead: FrozenTrial) -> PendingTrial | None:
        """Return a trial whose process died, to be resumed from its last checkpoint under its number.

        None: its run has finished, or died too often; the outcome is recorded.
        """
        folder = RunFolder(self._folder / str(dead.number))
        lost = "overrides" not in dead.user_attrs  # it was never launched, or the journal has lost its end
        if lost and (values := self._values_in(dead.number)):
            self._study._storage.set_trial_system_attr(dead._trial_id, "fixed_params", values)
        trial = optuna.Trial(self._study, dead._trial_id)
        outcome = Outcome.from_summary(folder.read_summary(), folder.path)
        if outcome and outcome.status != "stopped":
            if lost:
                self._ready(trial)
            self._record(trial, outcome)
            return None
        checkpoint = newest_undamaged(checkpoints_in(folder.checkpoints))
        name = checkpoint.name if checkpoint else None
        # A trial that gets further each time is not to blame for the death of its process; another trial may be.
        cause = dead.user_attrs.get("death", "its process died")
        before = dead.user_attrs.get("deaths", 0) if name == dead.user_attrs.get("checkpoint") else 0
        deaths = before + (outcome is None)
        if not lost:
            trial.set_user_attr("deaths", deaths)
            trial.set_user_attr("checkpoint", name)
            if deaths > self._settings.retries:
                times = f"its process died more than {counted(self._settings.retries, 'time')}"
                error = LrflowError(f"{times}: {cause}" if "death" in dead.user_attrs else times)
                outcome = Outcome.from_error(error, folder=folder.path)
                if folder.config.exists():
                    folder.write_summary(outcome.summary())
                self._record(trial, outcome)
                return None
            self._progress.print(f"trial {dead.number}: {cause}; it is run again")
        return self._ready(trial, checkpoint)

    def _wait_for(self, folder: RunFolder) -> None:
        """Wait for a run that outlived its sweep."""
        if holder := folder.holder():
            self._progress.print(f"{folder.path}: waiting for process {holder}, which still runs this trial")
        while folder.holder():
            time.sleep(1)

    def _record(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Record the outcome of a trial, and report it."""
        try:
            names = [each.name for each in self._settings.objectives]
            record_outcome(self._study, trial, names, outcome, self._settings.rank_ended_early)
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

"""The trials of a sweep: drawn, claimed by workers, launched as jobs, restarted after crashes, recorded."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrflow.config.overrides import quoted
from lrflow.config.sweep import Sweep
from lrflow.errors import LrflowError, StoppedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder, newest_checkpoint
from lrflow.sweeps.progress import Progress, record_outcome, recorded_outcome
from lrflow.sweeps.space import Assignment, Space
from lrflow.sweeps.study import is_database, quiet, storage_of


@dataclass(frozen=True)
class Pending:
    """A trial that is handed to the launcher.

    Args:
        trial: of the study.
        assignment: what it gives to the swept keys.
        checkpoint: where it goes on; None: it starts anew.
    """

    trial: optuna.Trial
    assignment: Assignment
    checkpoint: Path | None = None

    @property
    def number(self) -> int:
        """Of the trial, of its job and of its folder."""
        return self.trial.number


def overrides_of(pending: Pending, space: Space, settings: Sweep, study: str, folder: Path) -> list[str]:
    """The overrides of a job: its values, which trial it is, and where it goes on.

    Args:
        pending: the trial.
        space: that it was drawn from.
        settings: the sweeper's.
        study: the study's name.
        folder: of the sweep.
    """
    trial = {"number": pending.number, "study": study, "storage": storage_of(settings.storage, folder)}
    trial |= {"metric": settings.metric, "mode": settings.mode}  # which hold for the run too
    if settings.rank_ended_early:
        trial |= {"rank_ended_early": True}
    if settings.pruner != "none":
        trial |= {"pruner": settings.pruner}
    texts = [f"++trial.{key}={quoted(value)}" for key, value in trial.items()]
    if settings.pruner != "none":
        texts += [f"++trial.pruning.{key}={value}" for key, value in settings.pruning.model_dump().items()]
    texts += [f"++resume.from={quoted(pending.checkpoint)}"] if pending.checkpoint else []
    return [*space.overrides(pending.assignment), *texts]


def consecutive_trials(batch: Sequence[Pending]) -> Iterator[list[Pending]]:
    """Runs of trials whose numbers follow each other, as a launcher numbers its jobs."""
    part: list[Pending] = []
    for pending in sorted(batch, key=lambda pending: pending.number):
        if part and pending.number != part[-1].number + 1:
            yield part
            part = []
        part.append(pending)
    if part:
        yield part


class Trials:
    """The trials of a sweep. Several threads may take and note them.

    Args:
        study: where they are noted.
        space: what they are drawn from.
        settings: the sweeper's.
        n_trials: in all.
        folder: of the sweep; trial n runs in its folder n.
        progress: what is told of them.
    """

    def __init__(
        self, study: optuna.Study, space: Space, settings: Sweep, n_trials: int, folder: Path, progress: Progress
    ) -> None:
        self._study, self._space, self._settings = study, space, settings
        self._n_trials, self._folder, self._progress = n_trials, folder, progress
        self._is_shared = is_database(settings.storage)
        self._lock = threading.Lock()  # a sampler draws one trial after the other, and knows how those before ended
        self._taken: set[int] = set()
        self.closed = False  # no more are handed out

    def all(self) -> list[FrozenTrial]:
        """As the study has them now."""
        return self._study.get_trials(deepcopy=False)

    def outcomes(self) -> list[Outcome]:
        """How each trial that is over ended; one that was run again under another number is not told of."""
        fixed = [text.removeprefix("++") for text in self._space.fixed]
        replaced = _replaced(trials := self.all())
        over = [trial for trial in trials if trial.state.is_finished() and trial.number not in replaced]
        return [recorded_outcome(trial, fixed, self._folder) for trial in over]

    def look(self) -> None:
        """Lets the progress see them."""
        with self._lock:
            self._look()

    def take(self, count: int) -> list[Pending]:
        """The trials that come next: those whose process died first, then new ones.

        Args:
            count: of them, at most.

        Returns:
            what no other slot has, until it is given back; none: there is nothing left to do.
        """
        batch: list[Pending] = []
        while not batch:
            with self._lock:
                dead = self._take_dead(count)
            for trial in dead:  # without the lock: other slots go on
                self._wait_for(RunFolder(self._folder / str(trial.number)))
            with self._lock:
                batch += [pending for trial in dead if (pending := self._revived(trial))]
                batch += self._draw(count - len(batch))
                self._look()
            if not dead:
                break
        return batch

    def give_back(self, jobs: Sequence[Pending]) -> None:
        """Takes back trials of which nothing is known: their process may be dead."""
        with self._lock:
            self._taken -= {pending.number for pending in jobs}

    def note(self, jobs: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
        """Notes how trials ended.

        Raises:
            StoppedError: one was asked to stop, and the sweep with it.
            UnknownMetricError: no trial will give what is optimised.
        """
        stopped: StoppedError | None = None
        with self._lock:
            for pending, outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome.error, StoppedError):
                    stopped = outcome.error
                else:
                    self._tell(pending.trial, outcome)
            self._taken -= {pending.number for pending in jobs}
        if stopped:
            raise stopped

    def close(self) -> list[RunFolder]:
        """Lets no more trials be taken.

        Returns:
            the folders of those that are.
        """
        self.closed = True
        return [RunFolder(self._folder / str(number)) for number in tuple(self._taken)]

    def _look(self) -> None:
        self._progress.look(self.all(), self._folder)

    def _take_dead(self, count: int) -> list[FrozenTrial]:
        if self.closed:
            return []
        if self._is_shared:
            with quiet():
                optuna.storages.fail_stale_trials(self._study)
        running = [trial for trial in self.all() if trial.state is TrialState.RUNNING]
        dead = [trial for trial in running if trial.number not in self._taken and self._is_ours(trial)][:count]
        self._taken |= {trial.number for trial in dead}
        return dead

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether a trial that is noted as running is left to this process: nobody else can be at it."""
        if not self._is_shared:
            return True
        host, _, process = str(trial.user_attrs.get("owner", "")).rpartition(":")
        return host == socket.gethostname() and (int(process) == os.getpid() or not _is_alive(int(process)))

    def _draw(self, count: int) -> list[Pending]:
        """New trials, as far as there are any left."""
        replaced = _replaced(trials := self.all())
        begun = [t for t in trials if t.state is not TrialState.WAITING and t.number not in replaced]
        left = 0 if self.closed else self._n_trials - len(begun)
        drawn = []
        for _ in range(min(count, left)):
            with quiet():
                drawn.append(self._ready(self._study.ask()))
        return drawn

    def _ready(self, trial: optuna.Trial, checkpoint: Path | None = None) -> Pending:
        """A trial whose values are drawn and noted."""
        self._taken.add(trial.number)
        assignment = self._space.suggest(trial)
        trial.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
        trial.set_user_attr("overrides", [f"{key}={value}" for key, value in assignment.items()])
        return Pending(trial, assignment, checkpoint)

    def _revived(self, found: FrozenTrial) -> Pending | None:
        """A trial whose process is gone, if there is anything left of it to do; one that ended is told of.

        It keeps its number and its folder, and goes on from its last checkpoint.
        """
        folder = RunFolder(self._folder / str(found.number))
        trial = optuna.Trial(self._study, found._trial_id)
        ended = Outcome.from_summary(folder.read_summary(), folder.path)
        if ended and ended.status != "stopped":
            self._tell(trial, ended)
            return None
        checkpoint = newest_checkpoint(folder.path)
        name = checkpoint.name if checkpoint else None
        # One that gets further each time is not what kills its process: that may be the trial beside it.
        before = found.user_attrs.get("deaths", 0) if name == found.user_attrs.get("checkpoint") else 0
        deaths = before + (ended is None)
        if "overrides" in found.user_attrs:  # otherwise it was not even handed over
            trial.set_user_attr("deaths", deaths)
            trial.set_user_attr("checkpoint", name)
            if deaths > self._settings.retries:
                error = LrflowError(f"its process died more than {self._settings.retries} times")
                self._tell(trial, Outcome.from_error(error, folder=folder.path))
                return None
            self._progress.say(f"trial {found.number}: its process is gone; it is run again")
        return self._ready(trial, checkpoint)

    def _wait_for(self, folder: RunFolder) -> None:
        """Waits for a run whose sweep is gone, and which is still going."""
        if holder := folder.holder():
            self._progress.say(f"{folder.path}: still runs as process {holder}, which is waited for")
        while folder.holder():
            time.sleep(1)

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Notes how a trial ended, and tells of it."""
        try:
            names = [each.name for each in self._settings.objectives]
            record_outcome(self._study, trial, names, outcome, self._settings.rank_ended_early)
        finally:
            self._look()


def _replaced(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of trials in a database whose machine fell silent, and which are run again under another."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""The sweep: asks the study for trials, hands them to Hydra's launcher, tells the study how they ended."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrflow.config.sweep import Sweep
from lrflow.errors import ConfigError, LrflowError, Problem, PrunedError, StoppedError
from lrflow.runs import RunFolder, newest_checkpoint
from lrflow.sweeps.grammar import read_space
from lrflow.sweeps.jobs import Pending, consecutive, overrides_of, workers
from lrflow.sweeps.notes import note_end, noted, outcome_of
from lrflow.sweeps.outcome import Outcome
from lrflow.sweeps.progress import Progress
from lrflow.sweeps.pruning import make_pruner
from lrflow.sweeps.record import NAME, check_record, read_record, write_record
from lrflow.sweeps.samplers import ADAPTIVE, make_sampler
from lrflow.sweeps.space import Space
from lrflow.sweeps.study import Heartbeat, mend_journal, open_storage, quiet, storage_of

TRIALS = 20
"""Trials of a sweep that does not say how many."""


def run_sweep(
    launcher: Launcher, config: DictConfig, loader: ConfigLoader, typed: Sequence[str], job: Any
) -> list[Outcome]:
    """Runs a sweep, or goes on with one.

    Args:
        launcher: runs batches of jobs.
        config: as Hydra composed it, with `hydra.sweeper`.
        loader: knows what a glob of options stands for.
        typed: the overrides of the command line, without Hydra's own.
        job: what the launcher runs; where it has a list `outcomes`, that is filled.

    Returns:
        how each trial of the sweep ended.

    Raises:
        ConfigError: the sweep cannot be run as it is asked for.
        LrflowError: its study cannot be read or written.
    """
    content: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    settings = Sweep.model_validate({key: value for key, value in content.items() if key != "_target_"})
    folder = Path(str(config.hydra.sweep.dir))
    url = storage_of(settings.storage, folder)
    # What is written down and handed to jobs is what was typed: a URL out of the environment may hold a password.
    written: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    settings = settings.model_copy(update={"storage": written["storage"]})
    space = read_space(settings.params, settings.when, typed, loader)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"a sweep folder cannot be made there: {error.strerror}"
        raise ConfigError([Problem("output", message, str(folder))]) from error
    with nullcontext() if "://" in url else RunFolder(folder).held():
        given: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        overrides = [*given["hydra"], *given["task"]]
        sweep = Sweeping(settings, space, folder, url, launcher, workers(config.hydra.launcher), overrides)
        try:
            return sweep.run()
        finally:
            with suppress(LrflowError, OSError):
                getattr(job, "outcomes", [])[:] = sweep.outcomes()


class Sweeping:
    """One sweep.

    Args:
        settings: the sweeper's.
        space: what is drawn from.
        folder: of the sweep; trial n runs in its folder n.
        url: of the study's storage.
        launcher: runs batches of jobs.
        workers: jobs that it runs at a time; None: it does not say.
        overrides: of the command line, Hydra's own ones too.
    """

    def __init__(
        self,
        settings: Sweep,
        space: Space,
        folder: Path,
        url: str,
        launcher: Launcher,
        workers: int | None,
        overrides: Sequence[str],
    ) -> None:
        self.settings, self.space, self.folder, self._launcher = settings, space, folder, launcher
        known = (folder / NAME).exists()
        if known and not settings.resume:
            raise ConfigError([Problem("hydra.sweep.dir", "holds a sweep", str(folder), f"sweep.resume={folder}")])
        if known:
            record = read_record(folder)
            check_record(record, settings, space)
        grid = space.grid() if settings.sampler == "grid" else []
        self.n_trials = settings.n_trials or len(grid) or TRIALS
        self.name = record["study"] if known else settings.study or folder.name
        self._is_shared = "://" in url
        self._batch = settings.batch or workers or (4 if settings.sampler in ADAPTIVE else self.n_trials)
        self.progress = Progress(settings, self.n_trials, self._batch)
        if settings.storage == "journal" and (mended := mend_journal(Path(url))):
            self.progress.say(mended)
        self._backend = open_storage(url, settings.retries)
        directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        self.study = optuna.create_study(
            storage=self._backend,
            study_name=self.name,
            directions=[directions[mode] for mode in settings.modes],
            sampler=make_sampler(settings.sampler, settings.seed, self.n_trials, space.common()),
            pruner=make_pruner(settings.pruner, settings.pruning),
            load_if_exists=known or self._is_shared,
        )
        write_record(folder, settings, space, overrides, self.name)
        laid = sum("fixed_params" in trial.system_attrs for trial in self._trials())
        for assignment in grid[laid:]:
            self.study.enqueue_trial(space.parameters(assignment))

    def run(self) -> list[Outcome]:
        """Runs what is left of the sweep.

        Returns:
            how each of its trials ended.
        """
        with self.progress:
            self.progress.look(self._trials(), self.folder)
            try:
                while batch := self._next_batch():
                    for jobs in consecutive(batch):
                        self._launch(jobs)
            except (KeyboardInterrupt, SystemExit, StoppedError):
                left = "" if self.settings.storage == "memory" else f"; go on with -m sweep.resume={self.folder}"
                self.progress.say(f"the sweep was stopped{left}")
                raise
        return self.outcomes()

    def outcomes(self) -> list[Outcome]:
        """How each trial that is over ended."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        fixed = [text.removeprefix("++") for text in self.space.fixed]
        return [noted(trial, fixed, self.folder) for trial in self._trials() if trial.state in states]

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _next_batch(self) -> list[Pending]:
        """The trials that come next: those whose process died first, then new ones."""
        if self._is_shared:
            with quiet():
                optuna.storages.fail_stale_trials(self.study)
        batch: list[Pending] = []
        for trial in self._trials():
            if len(batch) < self._batch and trial.state is TrialState.RUNNING and self._is_ours(trial):
                batch += self._revived(trial)
        trials = self._trials()
        replaced = {trial.system_attrs.get("failed_trial") for trial in trials}
        begun = [t for t in trials if t.state is not TrialState.WAITING and t.number not in replaced]
        for _ in range(min(self._batch - len(batch), self.n_trials - len(begun))):
            with quiet():
                batch.append(self._ready(self.study.ask()))
        return batch

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether a trial that is noted as running is left to this process: nobody else can be at it."""
        if not self._is_shared:
            return True
        host, _, process = str(trial.user_attrs.get("owner", "")).rpartition(":")
        return host == socket.gethostname() and (int(process) == os.getpid() or not _is_alive(int(process)))

    def _ready(self, trial: optuna.Trial, checkpoint: Path | None = None) -> Pending:
        """A trial whose values are drawn and noted."""
        assignment = self.space.suggest(trial)
        trial.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
        trial.set_user_attr("overrides", [f"{key}={value}" for key, value in assignment.items()])
        return Pending(trial, assignment, checkpoint)

    def _revived(self, found: FrozenTrial) -> list[Pending]:
        """A trial whose process is gone, if there is anything left of it to do; one that ended is told of.

        It keeps its number and its folder, and goes on from its last checkpoint.
        """
        folder = RunFolder(self.folder / str(found.number))
        self._wait_for(folder)
        trial = optuna.Trial(self.study, found._trial_id)
        summary = folder.read_summary()
        status = summary.get("status")
        if status in ("finished", "pruned", "failed"):
            reason = str(summary.get("error", ""))
            kinds = {"finished": None, "pruned": PrunedError(reason), "failed": LrflowError(reason)}
            outcome = Outcome([], summary.get("metrics", {}), kinds[status], summary.get("seconds", 0.0), folder.path)
            self._tell(trial, outcome)
            return []
        deaths = found.user_attrs.get("deaths", 0) + (status != "stopped")
        if "overrides" in found.user_attrs:  # otherwise it was not even handed over
            trial.set_user_attr("deaths", deaths)
            if deaths > self.settings.retries:
                error = LrflowError(f"its process died more than {self.settings.retries} times")
                self._tell(trial, Outcome([], {}, error, 0.0, folder.path))
                return []
            self.progress.say(f"trial {found.number}: its process is gone; it is run again")
        return [self._ready(trial, newest_checkpoint(folder.path))]

    def _wait_for(self, folder: RunFolder) -> None:
        """Waits for a run whose sweep is gone, and which is still going."""
        if holder := folder.holder():
            self.progress.say(f"{folder.path}: still runs as process {holder}, which is waited for")
        while folder.holder():
            time.sleep(1)

    def _launch(self, jobs: Sequence[Pending]) -> None:
        """Runs a batch of trials with consecutive numbers, and tells how they ended."""
        overrides = [overrides_of(job, self.space, self.settings, self.name, self.folder) for job in jobs]
        self.progress.look(self._trials(), self.folder)
        try:
            with Heartbeat(self._backend, [pending.trial._trial_id for pending in jobs]):
                results = self._launcher.launch(overrides, initial_job_idx=jobs[0].number)
        except Exception as error:
            if not any((self.folder / str(pending.number)).exists() for pending in jobs):
                raise  # nothing was started, and nothing else would be
            # A worker that was killed takes its launcher's whole batch with it; the next batch looks what became of it.
            what = str(error).strip().partition("\n")[0]
            self.progress.say(f"the launcher failed: {type(error).__name__}: {what}")
            return
        stopped: StoppedError | None = None
        for pending, result in zip(jobs, results, strict=True):
            failed = result.status is not JobStatus.COMPLETED
            outcome = outcome_of(result._return_value, failed, self.folder / str(pending.number))
            if isinstance(outcome.error, StoppedError):
                stopped = outcome.error
            else:
                self._tell(pending.trial, outcome)
        if stopped:
            raise stopped

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Notes how a trial ended, and tells of it."""
        try:
            note_end(self.study, trial, self.settings.metrics, outcome)
        finally:
            self.progress.look(self._trials(), self.folder)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

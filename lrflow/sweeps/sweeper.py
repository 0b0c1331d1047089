"""Runs a sweep: asks the study for trials, launches them by Hydra's launcher on parallel workers, records outcomes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection

from lrflow import stops
from lrflow.config.interpolation import resolve
from lrflow.config.literal import how_to_resume, in_shell
from lrflow.config.overrides import Override
from lrflow.config.sweep_schema import Sweep
from lrflow.config.types import seconds_of
from lrflow.errors import (
    ConfigError,
    EndedEarlyError,
    LrflowError,
    Problem,
    ProcessDiedError,
    SignalReceived,
    StoppedError,
)
from lrflow.metric import Directions, Metric
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.folders import RECORD
from lrflow.sweeps.outcomes import outcome_of
from lrflow.sweeps.progress import Progress
from lrflow.sweeps.pruners import make_pruner
from lrflow.sweeps.samplers import ADAPTIVE, GridSampler, make_sampler
from lrflow.sweeps.space import Space, read_space
from lrflow.sweeps.study import (
    Heartbeat,
    check_record,
    is_database,
    open_storage,
    patiently,
    read_record,
    repair_journal,
    storage_error,
    storage_of,
    write_record,
)
from lrflow.sweeps.trials import PendingTrial, Trials, consecutive_trials, overrides_of

TRIALS = 20
"""Default number of trials."""


def run_sweep(
    launcher: Launcher, config: DictConfig, loader: ConfigLoader, typed: Sequence[str], job: Any
) -> list[Outcome]:
    """Run a sweep, or resume one.

    Args:
        launcher: of Hydra; runs the jobs.
        config: as Hydra composed it, with `hydra.sweeper`.
        loader: expands globs of options.
        typed: the overrides of the command line, without those of Hydra's own section.
        job: the function that the launcher runs; if it has a list `outcomes`, the list is filled.

    Returns:
        the outcome of each trial.

    Raises:
        ConfigError: the sweep is configured wrongly.
        LrflowError: the study cannot be read or written.
    """
    content: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    settings = Sweep.model_validate({key: value for key, value in content.items() if key != "_target_"})
    folder = Path(str(config.hydra.sweep.dir))
    settings = settings.with_objectives(_objectives(config, settings, folder))
    url = storage_of(settings.storage, folder)
    # Files and jobs receive the URL as typed: one from an environment variable may hold a password.
    written: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    settings = settings.model_copy(update={"storage": written["storage"]})
    space = read_space(settings.params, settings.when, map(Override.read, typed), loader)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the sweep folder cannot be created: {error.strerror}"
        raise ConfigError([Problem("output", message, str(folder))]) from error
    with nullcontext() if is_database(url) else RunFolder(folder).locked():
        given: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        overrides = [*given["hydra"], *given["task"]]
        sweep = SweepRun(settings, space, folder, url, launcher, config.hydra.launcher, overrides)
        if sweep.deadline is not None:
            getattr(job, "times", {})["deadline"] = sweep.deadline
        try:
            return sweep.run()
        except optuna.exceptions.StorageInternalError as error:
            reason = storage_error(error)
            message = f"sweep.storage: trials cannot be recorded: {reason}; {how_to_resume(folder)}"
            raise LrflowError(message) from error
        finally:
            with suppress(LrflowError, OSError, optuna.exceptions.StorageInternalError):
                getattr(job, "outcomes", [])[:] = sweep.trials.outcomes()


def _objectives(config: DictConfig, settings: Sweep, folder: Path) -> tuple[Metric, ...]:
    """Return the objectives: those of the settings, else those of the sweep that is resumed, else those of its runs."""
    configured = {"metric": settings.metric, "mode": settings.mode}
    resumed: dict[str, Any] = read_record(folder)["settings"] if (folder / RECORD).exists() else {}
    if settings.metric in (None, resumed.get("metric")):
        configured = {key: value if value is not None else resumed.get(key) for key, value in configured.items()}
    content, _ = resolve(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return Directions.of({**content, "sweep": configured}).objectives


class SweepRun:
    """A sweep that is running.

    Args:
        settings: of the sweeper.
        space: the search space.
        folder: of the sweep; trial n runs in its subfolder n.
        url: of the study's storage.
        launcher: of Hydra; runs the jobs.
        launcher_config: its config.
        overrides: of the command line, including those of Hydra's own section.

    Raises:
        ConfigError: the folder holds a sweep that is not resumed, or that differs from this one.
    """

    def __init__(
        self,
        settings: Sweep,
        space: Space,
        folder: Path,
        url: str,
        launcher: Launcher,
        launcher_config: DictConfig,
        overrides: Sequence[str],
    ) -> None:
        self.settings, self.space, self.folder, self._launcher = settings, space, folder, launcher
        known = (folder / RECORD).exists()
        if known and not settings.resume:
            raise ConfigError(
                [Problem("hydra.sweep.dir", "already holds a sweep", str(folder), in_shell("sweep.resume", folder))]
            )
        if known:
            record = read_record(folder)
            check_record(record, settings, space)
        grid = space.grid() if settings.sampler == "grid" else []
        self.deadline = time.monotonic() + seconds_of(settings.max_time) if settings.max_time else None
        self.n_trials = settings.n_trials or len(grid) or TRIALS
        self.name = record["study"] if known else settings.study or folder.name
        most = 4 if settings.sampler in ADAPTIVE else self.n_trials
        self._workers = workers_for(launcher_config, settings.batch, most)
        self.progress = Progress(settings, self.n_trials)
        if settings.storage == "journal" and (repair := repair_journal(Path(url))):
            self.progress.print(repair)
        self._backend = open_storage(url, settings.retries)
        sampler = make_sampler(settings.sampler, settings.seed, self.n_trials, space.common())
        directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        create = partial(
            optuna.create_study,
            storage=self._backend,
            study_name=self.name,
            directions=[directions[each.mode] for each in settings.objectives],
            sampler=GridSampler(space, sampler) if grid else sampler,
            pruner=make_pruner(settings.pruner, settings.pruning),
            load_if_exists=known or is_database(url),
        )
        study = patiently(create) if is_database(url) else create()
        write_record(folder, settings, space, overrides, self.name)
        self.trials = Trials(study, space, settings, self.n_trials, folder, self.progress)
        if known:
            self.trials.add_lost()

    def run(self) -> list[Outcome]:
        """Run the trials that are left.

        Returns:
            the outcome of each trial of the sweep.
        """
        with self.progress:
            self.trials.update_progress()
            try:
                if self._workers.shared and self._workers.count > 1:
                    self._launcher.launch([], initial_job_idx=0)
                self._workers.run(self._work, self._stop, self.deadline)
                if self._is_over and self.trials.are_left():
                    raise time_is_over()
            except (KeyboardInterrupt, SystemExit, SignalReceived, StoppedError):
                hint = "" if self.settings.storage == "memory" else f"; {how_to_resume(self.folder)}"
                self.progress.print(f"the sweep was stopped{hint}")
                raise
        return self.trials.outcomes()

    @property
    def _is_over(self) -> bool:
        """Whether the time of the sweep is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _work(self) -> None:
        """Launch trials until none is left; the loop of a worker."""
        while not self._is_over and (batch := self.trials.claim(self._workers.batch_size)):
            for jobs in consecutive_trials(batch):
                self._launch(jobs)

    def _launch(self, jobs: Sequence[PendingTrial]) -> None:
        """Run trials with consecutive numbers, and record their outcomes."""
        overrides = [overrides_of(job, self.space, self.settings, self.name, self.folder) for job in jobs]
        try:
            with Heartbeat(self._backend, [pending.trial._trial_id for pending in jobs]):
                results = self._launcher.launch(overrides, initial_job_idx=jobs[0].number)
        except Exception as error:
            if not any((self.folder / str(trial.number)).exists() for trial in self.trials.all()):
                raise  # no trial could be started
            # A killed process may take down the other jobs of its launcher. The trials are released; the worker that
            # claims them next reads their outcomes or restarts them.
            if not self.trials.closed:
                reason = str(error).strip().partition("\n")[0]
                self.progress.print(f"the launcher failed: {type(error).__name__}: {reason}")
            self.trials.release(jobs)
            return
        outcomes = [
            outcome_of(result._return_value, result.status is not JobStatus.COMPLETED, self.folder / str(job.number))
            for job, result in zip(jobs, results, strict=True)
        ]
        died = [job for job, outcome in zip(jobs, outcomes, strict=True) if isinstance(outcome.error, ProcessDiedError)]
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job in died:
                job.trial.set_user_attr("death", outcome.reason)
        self.trials.release(died)  # the worker that claims them next restarts them
        ended = [(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True) if job not in died]
        self.trials.record([job for job, _ in ended], [outcome for _, outcome in ended])

    def _stop(self) -> None:
        """Hand out no more trials, and ask the runs of the other workers to stop."""
        if asked := ask_to_stop(self.trials.close()):
            self.progress.print(f"waiting for {asked} runs to save a checkpoint; Ctrl-C ends them at once")


@dataclass(frozen=True)
class Workers:
    """The workers that hand jobs to a launcher.

    Args:
        count: workers, each of which launches at the same time as the others.
        batch_size: trials per launch.
        shared: whether the launches share an executor or a cluster, which a launch without jobs starts.
    """

    count: int
    batch_size: int = 1
    shared: bool = False

    def run(self, work: Callable[[], None], stop: Callable[[], None], deadline: float | None = None) -> None:
        """Run `work` in each worker; several workers are threads.

        Args:
            work: the loop of a worker.
            stop: called if a worker fails or a signal stops this process, while other workers are still running.
            deadline: time of `time.monotonic` at which several workers are stopped; None: never.

        Raises:
            BaseException: the error of the first worker that fails; the others get `stops.GRACE` seconds to end.
            SignalReceived: the process received a signal while several workers were running.
            StoppedError: several workers were running at the deadline.
        """
        if self.count == 1:
            work()
            return
        ended: SimpleQueue[BaseException | None] = SimpleQueue()

        def worker() -> None:
            try:
                work()
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

        # Daemon threads do not keep the process alive while a launcher waits for jobs that run elsewhere.
        threads = [threading.Thread(target=worker, name=f"worker {n}", daemon=True) for n in range(self.count)]
        with stops.handled():
            for thread in threads:
                thread.start()
            try:
                for _ in threads:
                    if error := _next(ended, deadline):
                        raise error
            except BaseException:
                stop()
                _wait_for_processes(threads)
                raise


def _next(ended: SimpleQueue[BaseException | None], deadline: float | None) -> BaseException | None:
    """Wait for the next worker to end, and return its error; at the deadline return one that says so."""
    try:
        return ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
    except Empty:
        return time_is_over()


def time_is_over() -> StoppedError:
    """Return the error that stops a sweep at `sweep.max_time`."""
    return StoppedError("the time of the sweep is over (sweep.max_time)", EndedEarlyError.exit_code)


def workers_for(launcher: DictConfig, batch: int | None, trials: int) -> Workers:
    """Return the workers for a launcher.

    A launcher that runs each job in its own process and can be called from several threads has one worker per job;
    other launchers receive batches.

    Args:
        launcher: its config.
        batch: concurrent trials, as configured; None: as many as the launcher can use.
        trials: concurrent trials of a launcher that can use any number.
    """
    match str(launcher.get("_target_", "")).rpartition(".")[2]:
        case "BasicLauncher":
            return Workers(1, batch or 1)
        case "JoblibLauncher":
            from joblib import effective_n_jobs  # type: ignore[import-untyped]

            workers = effective_n_jobs(launcher.get("n_jobs") or -1)
            return Workers(min(batch or workers, workers), shared=True)
        case "LocalLauncher":  # submitit's, which would start all jobs of a batch at once
            return Workers(batch or os.cpu_count() or 1)
        case "SlurmLauncher":
            return Workers(min(batch or trials, launcher.get("array_parallelism") or trials))
        case "RayLauncher":
            return Workers(batch or trials, shared=True)
    return Workers(1, batch or trials)


def ask_to_stop(folders: Iterable[RunFolder]) -> int:
    """Ask the runs in these folders that are children of this process to end at their next step, with a checkpoint.

    They receive a signal of another kind than this process, whose group they belong to: a second one of the same kind
    would end them at once.

    Returns:
        the number of runs that were asked.
    """
    children = {child.pid for child in multiprocessing.active_children()}
    holders = [int(holder) for folder in folders if (holder := folder.holder()) and holder.isdigit()]
    asked = [holder for holder in holders if holder in children]
    number = signal.SIGTERM if stops.requested() == signal.SIGUSR1 else signal.SIGUSR1
    for process in asked:
        os.kill(process, number)
    return len(asked)


def _wait_for_processes(threads: Iterable[threading.Thread]) -> None:
    """Wait for workers whose jobs are children of this process, then kill the children that are left.

    Jobs that run elsewhere are not stopped.
    """
    deadline = time.monotonic() + stops.GRACE
    try:
        for thread in threads:
            if multiprocessing.active_children():
                thread.join(max(0.0, deadline - time.monotonic()))
    finally:
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)  # the processes of loky have no kill() (joblib 1.5)

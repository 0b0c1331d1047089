"""Runs a sweep: asks the study for trials, launches them by Hydra's launcher on parallel workers, records outcomes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection

from lrflow.config.interpolation import resolve
from lrflow.config.overrides import Override
from lrflow.config.sweep import Sweep
from lrflow.errors import ConfigError, LrflowError, Problem, StoppedError
from lrflow.metric import Directions, Metric
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.folders import RECORD
from lrflow.sweeps.progress import Progress, outcome_of
from lrflow.sweeps.samplers import ADAPTIVE, Grid, make_pruner, make_sampler
from lrflow.sweeps.space import Space, read_space
from lrflow.sweeps.study import (
    Heartbeat,
    check_record,
    is_database,
    mend_journal,
    open_storage,
    read_record,
    storage_error,
    storage_of,
    write_record,
)
from lrflow.sweeps.trials import Pending, Trials, consecutive_trials, overrides_of

GRACE = 20
"""Seconds in which the runs of a sweep that is stopped can save what they have."""


@dataclass(frozen=True)
class Slots:
    """How a launcher is handed jobs.

    Args:
        count: launches at the same time.
        size: trials of a launch.
        shared: whether the launches have an executor or a cluster in common, which an empty one starts.
    """

    count: int
    size: int = 1
    shared: bool = False

    def run(self, work: Callable[[], None], stop: Callable[[], None]) -> None:
        """Does the work of each slot; of several, each in a thread of its own.

        Args:
            work: of a slot.
            stop: called when a slot has failed or the process is asked to stop, while other slots still work.

        Raises:
            BaseException: what the first slot that failed did, without waiting for the others' ends for long.
            StoppedError: SIGTERM came while several slots worked.
        """
        if self.count == 1:
            work()
            return
        ended: SimpleQueue[BaseException | None] = SimpleQueue()

        def slot() -> None:
            try:
                work()
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

        # Daemons, which a launcher whose jobs go on without this process does not keep from its end.
        threads = [threading.Thread(target=slot, name=f"slot {number}", daemon=True) for number in range(self.count)]
        with _stopped_by_sigterm():
            for thread in threads:
                thread.start()
            try:
                for _ in threads:
                    if error := ended.get():
                        raise error
            except BaseException:
                stop()
                _wait_for_processes(threads)
                raise


def slots_for(launcher: DictConfig, batch: int | None, trials: int) -> Slots:
    """How many jobs a launcher is handed at a time.

    Those that run jobs in processes of their own, and can be called from several threads, have a slot for each; others
    are handed batches.

    Args:
        launcher: its config.
        batch: trials at a time, as the user wants; None: as many as the launcher can use.
        trials: at a time, at most, where the launcher can use any number.
    """
    match str(launcher.get("_target_", "")).rpartition(".")[2]:
        case "BasicLauncher":
            return Slots(1, batch or 1)
        case "JoblibLauncher":
            from joblib import effective_n_jobs  # type: ignore[import-untyped]

            workers = effective_n_jobs(launcher.get("n_jobs") or -1)
            return Slots(min(batch or workers, workers), shared=True)
        case "LocalLauncher":  # submitit's, which would start all jobs at once
            return Slots(batch or os.cpu_count() or 1)
        case "SlurmLauncher":
            return Slots(min(batch or trials, launcher.get("array_parallelism") or trials))
        case "RayLauncher":
            return Slots(batch or trials, shared=True)
    return Slots(1, batch or trials)


def ask_to_stop(folders: Iterable[RunFolder]) -> int:
    """Asks the runs in folders to end at their next step, with a checkpoint, where they are this process's children.

    By the one signal of those that a run takes which no terminal and no batch system sends to a whole group: a second
    one of a kind would end it at once.

    Returns:
        how many were asked.
    """
    children = {child.pid for child in multiprocessing.active_children()}
    holders = [int(holder) for folder in folders if (holder := folder.holder()) and holder.isdigit()]
    asked = [holder for holder in holders if holder in children]
    for process in asked:
        os.kill(process, signal.SIGUSR1)
    return len(asked)


def _wait_for_processes(threads: Iterable[threading.Thread]) -> None:
    """Waits until slots whose jobs are children of this process have ended, and ends what is left of these children.

    Jobs elsewhere are left to themselves.
    """
    deadline = time.monotonic() + GRACE
    try:
        for thread in threads:
            if multiprocessing.active_children():
                thread.join(max(0.0, deadline - time.monotonic()))
    finally:
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)  # not child.kill(), which loky's processes have not (joblib 1.5)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM raises an error, in the main thread, instead of ending the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError("the sweep was asked to stop by SIGTERM", 128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


TRIALS = 20
"""Trials of a sweep that does not say how many."""


def run_sweep(
    launcher: Launcher, config: DictConfig, loader: ConfigLoader, typed: Sequence[str], job: Any
) -> list[Outcome]:
    """Runs a sweep, or goes on with one.

    Args:
        launcher: runs jobs.
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
    settings = settings.with_objectives(_objectives(config, settings, folder))
    url = storage_of(settings.storage, folder)
    # What is written down and handed to jobs is what was typed: a URL out of the environment may hold a password.
    written: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    settings = settings.model_copy(update={"storage": written["storage"]})
    space = read_space(settings.params, settings.when, map(Override.read, typed), loader)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"a sweep folder cannot be made there: {error.strerror}"
        raise ConfigError([Problem("output", message, str(folder))]) from error
    with nullcontext() if is_database(url) else RunFolder(folder).locked():
        given: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        overrides = [*given["hydra"], *given["task"]]
        sweep = Sweeping(settings, space, folder, url, launcher, config.hydra.launcher, overrides)
        try:
            return sweep.run()
        except optuna.exceptions.StorageInternalError as error:
            why = storage_error(error)
            message = f"sweep.storage: the trials cannot be noted: {why}; go on with -m sweep.resume={folder}"
            raise LrflowError(message) from error
        finally:
            with suppress(LrflowError, OSError, optuna.exceptions.StorageInternalError):
                getattr(job, "outcomes", [])[:] = sweep.trials.outcomes()


def _objectives(config: DictConfig, settings: Sweep, folder: Path) -> tuple[Metric, ...]:
    """What a sweep is judged by: as its settings say, as it was before it goes on, or as its runs are."""
    asked = {"metric": settings.metric, "mode": settings.mode}
    before: dict[str, Any] = read_record(folder)["settings"] if (folder / RECORD).exists() else {}
    if settings.metric in (None, before.get("metric")):
        asked = {key: value if value is not None else before.get(key) for key, value in asked.items()}
    content, _ = resolve(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return Directions.of({**content, "sweep": asked}).objectives


class Sweeping:
    """One sweep.

    Args:
        settings: the sweeper's.
        space: what is drawn from.
        folder: of the sweep; trial n runs in its folder n.
        url: of the study's storage.
        launcher: runs jobs.
        launching: its config.
        overrides: of the command line, Hydra's own ones too.
    """

    def __init__(
        self,
        settings: Sweep,
        space: Space,
        folder: Path,
        url: str,
        launcher: Launcher,
        launching: DictConfig,
        overrides: Sequence[str],
    ) -> None:
        self.settings, self.space, self.folder, self._launcher = settings, space, folder, launcher
        known = (folder / RECORD).exists()
        if known and not settings.resume:
            raise ConfigError([Problem("hydra.sweep.dir", "holds a sweep", str(folder), f"sweep.resume={folder}")])
        if known:
            record = read_record(folder)
            check_record(record, settings, space)
        grid = space.grid() if settings.sampler == "grid" else []
        self.n_trials = settings.n_trials or len(grid) or TRIALS
        self.name = record["study"] if known else settings.study or folder.name
        self._slots = slots_for(launching, settings.batch, 4 if settings.sampler in ADAPTIVE else self.n_trials)
        self.progress = Progress(settings, self.n_trials)
        if settings.storage == "journal" and (mended := mend_journal(Path(url))):
            self.progress.say(mended)
        self._backend = open_storage(url, settings.retries)
        sampler = make_sampler(settings.sampler, settings.seed, self.n_trials, space.common())
        directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        study = optuna.create_study(
            storage=self._backend,
            study_name=self.name,
            directions=[directions[each.mode] for each in settings.objectives],
            sampler=Grid(space, sampler) if grid else sampler,
            pruner=make_pruner(settings.pruner, settings.pruning),
            load_if_exists=known or is_database(url),
        )
        write_record(folder, settings, space, overrides, self.name)
        self.trials = Trials(study, space, settings, self.n_trials, folder, self.progress)

    def run(self) -> list[Outcome]:
        """Runs what is left of the sweep.

        Returns:
            how each of its trials ended.
        """
        with self.progress:
            self.trials.look()
            try:
                if self._slots.shared and self._slots.count > 1:
                    self._launcher.launch([], initial_job_idx=0)
                self._slots.run(self._work, self._stop)
            except (KeyboardInterrupt, SystemExit, StoppedError):
                left = "" if self.settings.storage == "memory" else f"; go on with -m sweep.resume={self.folder}"
                self.progress.say(f"the sweep was stopped{left}")
                raise
        return self.trials.outcomes()

    def _work(self) -> None:
        """What each slot does: launches trials until there are none left."""
        while batch := self.trials.take(self._slots.size):
            for jobs in consecutive_trials(batch):
                self._launch(jobs)

    def _launch(self, jobs: Sequence[Pending]) -> None:
        """Runs trials with consecutive numbers, and notes how they ended."""
        overrides = [overrides_of(job, self.space, self.settings, self.name, self.folder) for job in jobs]
        try:
            with Heartbeat(self._backend, [pending.trial._trial_id for pending in jobs]):
                results = self._launcher.launch(overrides, initial_job_idx=jobs[0].number)
        except Exception as error:
            if not any((self.folder / str(trial.number)).exists() for trial in self.trials.all()):
                raise  # nothing was started, and nothing else would be
            # A worker that was killed takes down what its launcher runs beside it; whoever takes the trials again
            # looks what became of them.
            if not self.trials.closed:
                what = str(error).strip().partition("\n")[0]
                self.progress.say(f"the launcher failed: {type(error).__name__}: {what}")
            self.trials.give_back(jobs)
            return
        ended = [
            outcome_of(result._return_value, result.status is not JobStatus.COMPLETED, self.folder / str(job.number))
            for job, result in zip(jobs, results, strict=True)
        ]
        self.trials.note(jobs, ended)

    def _stop(self) -> None:
        """Ends the runs that other slots are at."""
        if asked := ask_to_stop(self.trials.close()):
            self.progress.say(f"waits for {asked} runs to save what they have; Ctrl-C ends them at once")

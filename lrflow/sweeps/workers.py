"""Workers of a sweep, which hand runs to Hydra's launcher, and how they are stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from omegaconf import DictConfig

from lrflow import stops
from lrflow.errors import EndedEarlyError, StoppedError
from lrflow.runs import RunFolder


@dataclass(frozen=True)
class Workers:
    """The workers that hand jobs to a launcher.

    Args:
        count: workers, each of which launches at the same time as the others.
        batch_size: runs per launch.
        shared: whether the launches share an executor or a cluster, which a launch without jobs starts.
        whole_trials: whether `batch_size` counts trials, all runs of which are launched at once.
    """

    count: int
    batch_size: int = 1
    shared: bool = False
    whole_trials: bool = False

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
    return Workers(1, batch or trials, whole_trials=True)


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

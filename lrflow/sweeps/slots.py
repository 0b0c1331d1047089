"""How many jobs a launcher has at a time: each slot takes the next trial as soon as its last one is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType

from omegaconf import DictConfig

from lrflow.errors import StoppedError
from lrflow.runs import RunFolder

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

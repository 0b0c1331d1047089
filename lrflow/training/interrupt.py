"""Stopping a run when asked: all processes agree on the step, save it and end; Slurm may start the job again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

from lrflow import stops
from lrflow.config.failures import users_frames
from lrflow.errors import LrflowError, SignalReceived, StoppedError
from lrflow.wording import counted

log = logging.getLogger("lrflow")

LATENCY = 1.0
"""Seconds between two questions whether any process was asked to stop, which cost an exchange between devices."""

GRACE = 5.0
"""Seconds that the further processes of a run have to end by themselves."""


class StopRequest:
    """Whether the processes of a run were asked to stop; the answer is the same on every one.

    Attributes:
        signal: the signal, once all processes know it; None: none was received.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked_at, self._asked_step, self._interval = 0.0, 0, 1

    @property
    def exit_code(self) -> int:
        """128 plus the signal: 143 for SIGTERM, 138 for SIGUSR1, 130 for Ctrl-C, 129 for SIGHUP."""
        return 128 + (self.signal or 0)

    def begin(self, trainer: pl.Trainer) -> None:
        """Begin with the next step.

        Raises:
            StoppedError: a process was asked to stop while the run was set up.
        """
        self.start_at(trainer.global_step)
        if self.agreed(trainer):
            assert self.signal is not None
            raise StoppedError(_unsaved(self.signal, trainer.global_step), self.exit_code)

    def start_at(self, step: int) -> None:
        """Ask again from this step on, which may be an earlier one."""
        self._asked_at, self._asked_step, self._interval = time.monotonic(), step, 1

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Return whether any process was asked to stop; every process has to call it at the same place."""
        if self.signal is None:
            own = stops.requested() or 0
            self.signal = (own if trainer.world_size == 1 else _highest(trainer, own)[0]) or None
        return self.signal is not None

    def agreed_after_step(self, trainer: pl.Trainer, at_most: int) -> bool:
        """Return whether any process was asked to stop; several processes ask each other about once a second.

        Args:
            trainer: has just made a step.
            at_most: the most steps between two questions.
        """
        if trainer.world_size == 1:
            if self.signal is None:
                self.signal = stops.requested()
            return self.signal is not None
        steps = trainer.global_step - self._asked_step
        if self.signal is not None or steps < self._interval:
            return self.signal is not None
        now = time.monotonic()
        own, pace = stops.requested() or 0, int(1e6 * (now - self._asked_at) / steps)
        asked, slowest = _highest(trainer, own, pace)  # microseconds per step, the same for all
        self.signal = asked or None
        self._asked_at, self._asked_step = now, trainer.global_step
        self._interval = max(1, min(at_most, 2 * self._interval, int(1e6 * LATENCY / max(1, slowest))))
        return self.signal is not None


def _highest(trainer: pl.Trainer, *numbers: int) -> list[int]:
    """Return the highest of each number over all processes."""
    found = torch.tensor(numbers, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return [int(number) for number in found.tolist()]


def _unsaved(number: int, step: int) -> str:
    return f"{stops.stopped_by(number)} at step {step}, before the first step of this start: there is nothing to save"


class NoHandlers(_SignalConnector):
    """Replaces Lightning's signal handlers, since `lrflow.stops` has its own.

    Lightning's (2.6.6) communicate with other processes from within the handler, act inside an accumulation window,
    which loses gradients, and under Slurm save at any moment.
    """

    def register_signal_handlers(self) -> None:
        """Do nothing."""

    def teardown(self) -> None:
        """Do nothing."""


class Launcher(_SubprocessScriptLauncher):
    """Starts the further processes of a run on this machine, and ends the run if one of them dies.

    Lightning's own (2.6.6) kills the run without a word, also if a process has ended because all of them were asked to.
    """

    @classmethod
    def replace(cls, trainer: pl.Trainer) -> None:
        """Give a trainer this launcher, if it would start processes by Lightning's."""
        launcher = trainer.strategy.launcher
        if type(launcher) is _SubprocessScriptLauncher:
            trainer.strategy._launcher = cls(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the processes, unless they exist, and call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self.is_ending = threading.Event()
            with stops.starting() as further:
                self._call_children_scripts()
                further += self.procs
            threading.Thread(target=self._observe, daemon=True, name="further processes").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def dead(self) -> str | None:
        """Return which process has died, and how; None: none has."""
        for rank, process in enumerate(self.procs, start=1):
            if code := process.poll():
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"process {rank} of {self.num_processes} {how}"
        return None

    def end(self, patience: float) -> None:
        """Wait for the processes to end; kill those that are left."""
        self.is_ending.set()
        deadline = time.monotonic() + patience
        for process in self.procs:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if process.poll() is None:
                with suppress(OSError):
                    process.kill()

    def _observe(self) -> None:
        """End this process if another one has died and this one does not notice, as in a kernel that waits for it."""
        while not self.is_ending.wait(0.5):
            if all(process.poll() == 0 for process in self.procs):
                return
            if (dead := self.dead()) and not self.is_ending.wait(GRACE):
                os.write(2, f"lrflow: {dead}, so the run ends\n".encode())
                self.end(0)
                os._exit(1)


@contextmanager
def ended_together(trainer: pl.Trainer, hint: str) -> Iterator[None]:
    """End the further processes of a run when the block raises, and raise what ended the run.

    Args:
        trainer: of the run.
        hint: how to continue a run that has made steps.

    Raises:
        StoppedError: a signal ended it.
        LrflowError: one of the other processes has died.
    """
    first = trainer.global_step
    launcher = trainer.strategy.launcher
    try:
        yield
    except BaseException as raised:
        error = stops.cause_of(raised)
        if not isinstance(launcher, Launcher) or not launcher.procs:
            launcher = None
        if isinstance(raised, SignalReceived):
            if launcher:
                launcher.end(0)
            done = trainer.global_step
            saved = f"{counted(done, 'step')}, {'which is saved' if done == 1 else 'which are saved'}"
            text = f"{stops.stopped_by(raised.number)} after {saved}; {hint}"
            raise StoppedError(text if done > first else _unsaved(raised.number, done), 128 + raised.number) from None
        if launcher:
            launcher.is_ending.set()
            if not isinstance(error, LrflowError) and not users_frames(error):  # most likely a lost connection
                deadline = time.monotonic() + 1
                while not launcher.dead() and time.monotonic() < deadline:
                    time.sleep(0.05)
                if dead := launcher.dead():
                    error = LrflowError(f"{dead}, so the run ended; {hint}")
            launcher.end(GRACE)
        if error is raised:
            raise
        raise error from raised


def requeue() -> None:
    """Ask Slurm to start this job again once it has ended; log the answer."""
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):  # one task of an array has the id of the whole array
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        failure = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        failure = str(error)
    if failure:
        log.warning("Slurm did not requeue job %s: %s", job, failure)
    else:
        log.warning("Slurm requeues job %s", job)

"""Signals that ask the process to stop: the first one in good order, a second one of the same kind at once.

A handler never does more than note the signal and raise `SignalReceived`. Where an exception would lose work, as during
training, `deferred` makes it only note the signal, and the code asks `requested` where it can stop.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lrflow.errors import LrflowError, SignalReceived, StoppedError
from lrflow.launch import is_first_here

SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)

GRACE = 20.0
"""Seconds in which a run that was asked to stop may save a checkpoint, before it is killed."""

SAME = 0.25
"""Seconds within which a repeated signal is the same request: `timeout`, shells and other wrappers send a signal to a
process and again to its process group."""


class _Process:
    """What this process knows of its signals."""

    def __init__(self) -> None:
        self.owner: int | None = None  # id of the process that handles them; a fork has another one
        self.raising = True
        self.first: int | None = None
        self.handled: set[int] = set()
        self.times: dict[int, float] = {}
        self.further: list[Any] = []
        self.wakeup: int | None = None
        self.hooked = False


_process = _Process()


def requested() -> int | None:
    """Return the signal that asked this process to stop, or None."""
    if _process.first is None:
        return None
    return _process.first if _process.owner == os.getpid() else None


@contextmanager
def handled(raising: bool = True) -> Iterator[None]:
    """Handle the signals within the block: the first raises `SignalReceived` in the main thread.

    A signal that the process ignores, as under `nohup`, stays ignored. Blocks may be nested; the inner ones do nothing.

    Args:
        raising: False: signals are only noted, as within `deferred`.
    """
    if threading.current_thread() is not threading.main_thread() or _process.owner == os.getpid():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    _process.owner, _process.raising, _process.first = os.getpid(), raising, None
    _process.handled.clear()
    _process.times.clear()
    _process.further = []
    for number in ours:
        signal.signal(number, _receive)
    if os.environ.get("LRFLOW_RUN_FOLDER"):  # the process that started this one blocked them
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        for number in ours:
            if (handler := before[number]) is not None:  # None: set outside of Python
                signal.signal(number, handler)
        _end_watch()
        _process.owner, _process.first = None, None


@contextmanager
def deferred() -> Iterator[None]:
    """Only note signals within the block; the code in it has to look at `requested`."""
    with handled(raising=False):
        before, _process.raising = _process.raising, False
        try:
            yield
        finally:
            _process.raising = before


def raise_if_requested() -> None:
    """Raise the signal that was noted, if there is one.

    Raises:
        SignalReceived: the process was asked to stop.
    """
    if (number := requested()) is not None:
        raise SignalReceived(number)


@contextmanager
def starting() -> Iterator[list[Any]]:
    """Start further processes of a run within the block, which adds them to the list that it gets.

    Signals are blocked, so that the new processes get them only once they handle them. When a second signal ends this
    process, it ends them too; from now on that works even while the main thread waits within a library.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield _process.further
    finally:
        if _process.owner == os.getpid() and threading.current_thread() is threading.main_thread():
            _watch()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """Ignore signals in this worker process, unless its parent sends SIGTERM: the parent decides when to stop.

    A group of processes often gets a signal as a whole. Without its workers, a run could not finish its step.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    parent = os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid not in (parent, 0):
            pass
        os._exit(0)

    _thread.start_new_thread(wait, ())


def end_with_parent() -> None:
    """End this process soon after its parent has died; a rank of a run would otherwise wait for it for ever."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    _thread.start_new_thread(wait, ())


def cause_of(error: BaseException) -> BaseException:
    """Return the exception that ended a run; a signal becomes a StoppedError.

    Lightning 2.6.6 turns SIGTERM and Ctrl-C into SystemExit with other exit codes; the signal is recovered from it. Any
    other SystemExit is returned unchanged. Once a stop was requested, other errors follow from it, such as a lost
    connection to a process that has stopped already.
    """
    if isinstance(error, SystemExit):
        if type(error).__name__ == "SIGTERMException":
            error = SignalReceived(signal.SIGTERM)
        elif isinstance(error.__context__, KeyboardInterrupt | SignalReceived):
            error = error.__context__
    if isinstance(error, SignalReceived):
        return StoppedError(stopped_by(error.number), 128 + error.number)
    if (number := requested()) is not None and isinstance(error, Exception) and not isinstance(error, LrflowError):
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return StoppedError(f"{stopped_by(number)}; then {reason}", 128 + number)
    return error


def stopped_by(number: int) -> str:
    """Return the words for a stop by this signal."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


def _receive(number: int, frame: FrameType | None) -> None:
    """Handle a signal: note the first one, and raise it unless signals are deferred."""
    if os.getpid() != _process.owner:  # a forked process, which ends as usual
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if number in _process.handled:
        return  # the thread of `_watch` decides whether it ends the process
    _process.handled.add(number)
    _process.times.setdefault(number, time.monotonic())
    _watch()
    if _process.first is None:
        _process.first = number
        if _process.raising:
            raise SignalReceived(number)


def _watch() -> None:
    """Start the thread that ends this process at a second signal of the same kind.

    It is a thread because the main thread may wait within a library, where Python calls no handlers. It is started
    without the module `threading`, whose locks the interrupted code may hold.
    """
    if _process.wakeup is not None:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _process.wakeup = writer
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if not _process.hooked:  # forked processes write to the same pipe otherwise
        os.register_at_fork(after_in_child=_forget)
        _process.hooked = True
    _thread.start_new_thread(_end_at_repetition, (reader,))


def _forget() -> None:
    if _process.wakeup is not None:
        with suppress(ValueError):  # not in the main thread
            signal.set_wakeup_fd(-1)
        _process.wakeup = None


def _end_watch() -> None:
    if _process.wakeup is None:
        return
    signal.set_wakeup_fd(-1)
    os.close(_process.wakeup)
    _process.wakeup = None


def _end_at_repetition(reader: int) -> None:
    """Read signals from a pipe, and end the process at the second of a kind."""
    while data := os.read(reader, 64):
        now = time.monotonic()
        for number in data:
            if number in SIGNALS and now - _process.times.setdefault(number, now) > SAME:
                _end_at_once(number)
    os.close(reader)


def _end_at_once(number: int) -> None:
    processes: Sequence[Any] = _process.further
    if multiprocessing := sys.modules.get("multiprocessing"):
        processes = [*processes, *multiprocessing.active_children()]
    for process in processes:
        with suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
    if is_first_here():
        os.write(2, f"lrflow: ended at once by a second {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)

"""A process of its own for the jobs of a sweep, so that a crash or a hang ends one job and not the sweep."""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lrflow import stops
from lrflow.errors import LrflowError, ProcessDiedError, SignalReceived, StoppedError, TimeLimitError

_LOOK = 0.2
"""Seconds between two looks whether the process is alive; its result is read at once."""

_HEAD = 8
"""Bytes before a result that hold its length."""

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class TimeIsOver(KeyboardInterrupt):  # which code that handles every error lets pass
    """Interrupts a job that takes too long."""


def can_fork() -> bool:
    """Whether a copy of this process is as good as the process itself.

    It is not if CUDA has been started, which a copy cannot use, or if this is not the main thread, which handles
    signals. Copies of a process are unreliable on macOS, and do not exist on Windows.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return False
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return not (cuda and cuda.is_initialized())


class OwnProcess:
    """A forked copy of this process that does work for it, such as one job of a sweep after the other.

    If the copy dies, the next call forks another. It is a process group of its own: it receives those signals that this
    process receives during a call and passes on, and none that a terminal sends to both of them. It ends when this
    process ends, however that ends.

    Args:
        work: what the copy does with the argument of a call; argument and result must be picklable.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work
        self._id = 0
        self._requests: Any = None
        self._results: Any = None

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._requests is None:
            return
        self._requests.close()  # the copy ends when nobody can ask it any more
        self._results.close()
        with suppress(ChildProcessError):
            os.waitpid(self._id, 0)
        self._requests = None

    def __call__(self, given: Any, limit: float | None = None) -> Any:
        """Do the work in the copy, and return its result.

        Args:
            given: the argument of the work.
            limit: seconds after which the copy is asked to stop, and killed if it does not within `stops.GRACE`.

        Raises:
            BaseException: what the work raised.
            ProcessDiedError: the copy ended without a result.
            TimeLimitError: it took longer than `limit`.
            SignalReceived: this process was asked to stop, and the copy ended or went on without minding it.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        try:
            if self._requests is None:
                self._fork(set(before))
            with _passed_on(self._id, before) as received:
                with suppress(BrokenPipeError):  # it has died, as is found next
                    self._requests.write(_framed(pickle.dumps(given)))
                    self._requests.flush()
                ended, result = _wait(self._id, self._results, limit)
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._kill()
            raise
        if ended is not None:
            self._kill()
            if received:
                raise SignalReceived(received[0])
            raise ended
        raised, value = pickle.loads(result)
        if raised and not (received and isinstance(value, KeyboardInterrupt)):
            raise value
        if received and not isinstance(getattr(value, "error", None), StoppedError):
            raise SignalReceived(received[0])
        return value

    def _fork(self, blocked: set[int]) -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # or the copy would write the rest again
        parent = os.getpid()
        (asked, asking), (answered, answering) = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads, such as NumPy's, expect a fork
            self._id = os.fork()
        if self._id == 0:
            os.close(asking)
            os.close(answered)
            _be_the_copy(self._work, asked, answering, blocked, parent)
        os.close(asked)
        os.close(answering)
        with suppress(OSError):
            os.setpgid(self._id, self._id)
        self._requests, self._results = os.fdopen(asking, "wb"), os.fdopen(answered, "rb")

    def _kill(self) -> None:
        """Kill the copy and the processes that it started, such as loader workers."""
        if self._requests is None:
            return
        _kill_group(self._id)
        for pipe in (self._requests, self._results):
            with suppress(OSError):
                pipe.close()
        self._requests = None


@contextmanager
def limited(limit: float | None, when_hung: Callable[[], object]) -> Iterator[None]:
    """Interrupt the block after `limit` seconds, as Ctrl-C does, and raise `TimeLimitError`.

    If that does not end the block, the process ends. Outside of the main thread, which no signal interrupts, it ends at
    once.

    Args:
        limit: seconds; None: no limit.
        when_hung: called before the process is ended, `stops.GRACE` seconds after the limit.
    """
    if limit is None or not hasattr(signal, "SIGALRM"):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeIsOver

    def end() -> None:
        try:
            when_hung()
        finally:
            os._exit(TimeLimitError.exit_code)

    is_main = threading.current_thread() is threading.main_thread()
    watchdog = threading.Timer(limit + stops.GRACE * is_main, end)
    watchdog.daemon = True
    watchdog.start()
    if is_main:
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    except TimeIsOver:
        raise TimeLimitError("it took too long") from None
    finally:
        watchdog.cancel()
        if is_main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@contextmanager
def _passed_on(process: int, before: Iterable[int]) -> Iterator[list[int]]:
    """Pass signals on to a process within the block; yields the list of those that were.

    Args:
        process: its id.
        before: the signals that were blocked before the block.
    """
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with suppress(ProcessLookupError):
            os.kill(process, number)

    handlers = {number: signal.getsignal(number) for number in _PASSED_ON}
    for number, handler in handlers.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, handler)


def _wait(process: int, results: Any, limit: float | None) -> tuple[LrflowError | None, bytes]:
    """Wait for the result of a process, and return why it has none, or the result."""
    started, asked = time.monotonic(), None
    read, is_open = b"", True
    while not _is_whole(read):
        if is_open and select.select([results], [], [], _LOOK)[0]:
            part = os.read(results.fileno(), 1 << 20)
            read, is_open = read + part, bool(part)
            continue
        if not is_open:
            time.sleep(_LOOK / 20)
        status = _status_of(process)
        now = time.monotonic()
        if status is not None:
            while is_open and select.select([results], [], [], 0)[0]:
                part = os.read(results.fileno(), 1 << 20)
                read, is_open = read + part, bool(part)
            if not _is_whole(read):
                died = ProcessDiedError(_cause_of_death(os.waitstatus_to_exitcode(status)))
                return (TimeLimitError("it took too long") if asked else died), b""
        elif limit is not None and asked is None and now - started > limit:
            asked = now
            os.kill(process, signal.SIGTERM)
        elif asked is not None and now - asked > stops.GRACE:
            return TimeLimitError("it took too long"), b""
    result = read[_HEAD:]
    if asked is not None and isinstance(getattr(pickle.loads(result)[1], "error", None), StoppedError):
        return TimeLimitError("it took too long"), b""
    return None, result


def _status_of(process: int) -> int | None:
    """Return the status with which a process has ended; None: it has not."""
    try:
        ended, status = os.waitpid(process, os.WNOHANG)
    except ChildProcessError:  # nobody is told of it, if SIGCHLD is ignored
        return 0
    return status if ended else None


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(_HEAD, "big") + content


def _is_whole(read: bytes) -> bool:
    """Whether a message, which its length precedes, has arrived as a whole."""
    return len(read) >= _HEAD and len(read) - _HEAD >= int.from_bytes(read[:_HEAD], "big")


def _cause_of_death(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"its process ended by itself, with the exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; the system does this if memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}"


def _kill_group(process: int) -> None:
    """Kill a process and those that it started, and wait for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(process, 0)


def _be_the_copy(work: Callable[[Any], Any], asked: int, answering: int, blocked: set[int], parent: int) -> None:
    """Do the work that this process is asked for until nobody can ask any more, and end."""
    code = 1
    try:
        os.setpgid(0, 0)
        _die_with(parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in set(_PASSED_ON) - {signal.SIGINT}:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # a terminal stops processes in the background that use it
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        with os.fdopen(asked, "rb") as requests, os.fdopen(answering, "wb") as results:
            while head := requests.read(_HEAD):
                given = pickle.loads(requests.read(int.from_bytes(head, "big")))
                try:
                    raised, value = False, work(given)
                except BaseException as error:
                    raised, value = True, error
                try:
                    result = pickle.dumps((raised, value))
                    pickle.loads(result)
                except Exception:
                    result = pickle.dumps((True, LrflowError(f"{type(value).__name__}: {value}")))
                for stream in (sys.stdout, sys.stderr):
                    if stream is not None:
                        stream.flush()
                results.write(_framed(result))
                results.flush()
        code = 0
    finally:
        os._exit(code)  # what the other process does at its end is not for this one to do


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lrflow.cli.own_process import OwnProcess, limited
from lrflow.errors import LrflowError, ProcessDiedError, SignalReceived, StoppedError, TimeLimitError
from lrflow.outcome import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def deaf(given: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def stops(given: Any) -> Outcome:
    """Train until SIGTERM, and save."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    asked.wait(60)
    return Outcome.from_error(StoppedError("stopped as asked", 143))


@pytest.mark.parametrize(
    ("work", "limit", "error", "message"),
    [
        (lambda given: os._exit(7), None, ProcessDiedError, "by itself, with the exit code 7"),
        (lambda given: os._exit(0), None, ProcessDiedError, "by itself, with the exit code 0"),
        (lambda given: os.kill(os.getpid(), 9), None, ProcessDiedError, "SIGKILL; the system does this if memory"),
        (lambda given: os.kill(os.getpid(), 31), None, ProcessDiedError, "killed by SIGSYS"),
        (lambda given: (os.fork() and os._exit(1)) or time.sleep(60), None, ProcessDiedError, "exit code 1"),
        (lambda given: time.sleep(60), 0.1, TimeLimitError, "too long"),
        (deaf, 0.1, TimeLimitError, "too long"),
        (stops, 0.1, TimeLimitError, "too long"),
        (lambda given: 1 / 0, None, ZeroDivisionError, "division"),
        (lambda given: sys.exit(3), None, SystemExit, "3"),
        (lambda given: threading.Lock(), None, LrflowError, "lock"),
    ],
)
def test_what_ends_the_process_ends_only_the_call(
    work: Callable[[Any], Any], limit: float | None, error: type[BaseException], message: str, monkeypatch
) -> None:
    monkeypatch.setattr("lrflow.stops.GRACE", 0.2)

    def first_only(given: Any) -> Any:
        return work(given) if given == 1 else (given, os.getpid())

    with OwnProcess(first_only) as process:
        with pytest.raises(error, match=message):
            process(1, limit)
        given, copy = process(2, limit)
        assert given == 2
        assert copy != os.getpid()


def test_one_process_does_the_work_of_many_calls() -> None:
    with OwnProcess(lambda given: (os.getpid(), bytes(given))) as process:
        assert len({process(0)[0] for _ in range(3)}) == 1
        pid, large = process(1_000_000)  # more than a pipe holds
        assert len(large) == 1_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("minds", [True, False])
def test_a_signal_to_this_process_reaches_the_other(number: signal.Signals, minds: bool) -> None:
    def work(parent: int) -> Any:
        asked = threading.Event()
        if minds:
            signal.signal(number, lambda *_: asked.set())
        os.kill(parent, number)
        return "asked" if asked.wait(20) else "not asked"

    before = signal.signal(number, signal.default_int_handler)  # a job in the background of a shell ignores SIGINT
    try:
        with OwnProcess(work) as process, pytest.raises(SignalReceived) as ended:
            process(os.getpid())
        assert ended.value.number == number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_run_that_saved_when_it_was_asked_to_stop_gives_its_outcome() -> None:
    def work(parent: int) -> Outcome:
        asked = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
        os.kill(parent, signal.SIGTERM)
        asked.wait(20)
        return Outcome.from_error(StoppedError("saved", 143))

    with OwnProcess(work) as process:
        assert process(os.getpid()).status == "stopped"


def test_a_limit_within_a_process_raises_and_leaves_no_alarm() -> None:
    def handles_every_error() -> None:
        try:
            time.sleep(10)
        except Exception:
            pytest.fail("it has to pass")

    with pytest.raises(TimeLimitError), limited(0.05, lambda: None):
        handles_every_error()
    with limited(10, lambda: None), limited(None, lambda: None):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

"""Signals that ask for a stop, outside of training: they end the run that is under way, and are told of as a stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lrflow.errors import SignalReceived

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1 raise `SignalReceived` within, instead of ending the process without a word.

    While a run trains, its `StopRequest` listens in their place. A second signal of the kind ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a forked process, such as a loader's worker: it ends as without lrflow
            os.kill(os.getpid(), number)
            return
        raise SignalReceived(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # set outside of Python
                signal.signal(number, handler)

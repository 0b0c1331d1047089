"""The budget of a sweep: the time during which it was running, over all its starts and machines."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import optuna

from lrflow.config.schemas.types import seconds_of

_KEY = "session "
"""Start of the attributes of a study that hold when a process was running the sweep: its first and last second."""


class Budget:
    """Measures the time that a sweep has spent.

    The time is that on the clock while any process was running the sweep; processes that run it at the same time count
    once, and the time between a stop and a resume does not count. A process that was killed counts until the last write
    to a run folder.

    Args:
        limit: the budget, such as `2 hours`; None: no limit.
        study: of the sweep, in which each process records its time.
        folder: of the sweep.
    """

    def __init__(self, limit: str | None, study: optuna.Study, folder: Path) -> None:
        self.limit = limit
        self._study = study
        self._started = time.time()
        self._key = f"{_KEY}{socket.gethostname()}:{os.getpid()}:{self._started:.0f}"
        before = self._sessions()
        last = max(before, key=lambda key: before[key][0], default=None)
        if last and len(study.user_attrs[last]) == 2:  # its process was killed
            times = (path.stat().st_mtime for path in folder.glob("*/*") if path.is_file())
            if before[last][1] < (newest := max(times, default=0.0)) < self._started:
                study.set_user_attr(last, [before[last][0], newest])
        self.note()

    def note(self, ended: bool = False) -> None:
        """Record that the sweep is still running, or that this process has ended it."""
        self._study.set_user_attr(self._key, [self._started, time.time(), *(["ended"] if ended else [])])

    @property
    def spent(self) -> float:
        """The seconds spent."""
        sessions = {**self._sessions(), self._key: (self._started, time.time())}
        total, end = 0.0, 0.0
        for first, last in sorted(sessions.values()):
            total += max(0.0, last - max(first, end))
            end = max(end, last)
        return total

    @property
    def is_spent(self) -> bool:
        """Whether no further trial starts."""
        return self.limit is not None and self.spent >= seconds_of(self.limit)

    def _sessions(self) -> dict[str, tuple[float, float]]:
        found = self._study.user_attrs
        return {key: (float(value[0]), float(value[1])) for key, value in found.items() if key.startswith(_KEY)}

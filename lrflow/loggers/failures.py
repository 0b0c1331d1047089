"""Failures of loggers: each is reported once, and none ends the run or keeps the values from the other loggers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers import Logger

from lrflow.errors import LrflowError
from lrflow.wording import counted

log = logging.getLogger("lrflow")

_METHODS = ("log_metrics", "log_rows", "log_hyperparams", "log_graph", "describe", "report_finding", "drop_from",
            "flush", "save", "after_save_checkpoint", "finalize")  # fmt: skip
"""Methods that Lightning and lrflow call during a run."""

_PAUSE, _LONG = 10, 0.1
"""Pause after a failure, as a multiple of the time that the failed call took, and the seconds from which it counts."""


class Failures:
    """What fails in one logger.

    A server that does not answer costs time: the next call is made ten times as long after a failed one as that took.

    Args:
        name: of the logger, for people.
        keeps: whether the logger itself keeps what it could not log, and logs it later.
    """

    def __init__(self, name: str, keeps: bool = False) -> None:
        self.name, self.keeps = name, keeps
        self.count = 0
        self._until = 0.0

    def attempt(self, function: Callable[..., Any], *args: Any, now: bool = False, **options: Any) -> bool:
        """Call a function of the logger, and return whether it was called and did not fail.

        Args:
            function: the function.
            args: its arguments.
            now: call it even during the pause after a failure.
            options: its named arguments.

        Raises:
            LrflowError: what lrflow itself raises, such as a signal that stops the run.
        """
        start = time.monotonic()
        if not now and start < self._until:
            self.count += 1
            return False
        try:
            function(*args, **options)
        except LrflowError:
            raise
        except Exception as error:  # loggers raise any
            took = time.monotonic() - start
            self.count += 1
            if self.count == 1:
                later = "the values are logged later" if self.keeps else "training goes on"
                reason = str(error).partition("\n")[0] or type(error).__name__
                log.warning("%s: cannot log: %s; %s", self.name, reason, later)
            if took > _LONG:
                self._until = time.monotonic() + _PAUSE * took
            return False
        return True

    def conclude(self) -> None:
        """Tell at the end of the run that a logger lacks values."""
        if self.count and not self.keeps:
            log.warning("%s: %s failed, so values are missing there", self.name, counted(self.count, "call"))


class _Attempted:
    """A method of a logger whose failure ends nothing; picklable, as a strategy that starts processes needs it."""

    def __init__(self, failures: Failures, method: Callable[..., Any]) -> None:
        self._failures, self._method = failures, method

    def __call__(self, *args: Any, **options: Any) -> None:
        self._failures.attempt(self._method, *args, **options)


def guard(logger: Logger, name: str) -> Logger:
    """Return a logger that fails in none of the calls of a run, but reports the first failure.

    Args:
        logger: any logger; it is changed.
        name: its name in the config.
    """
    failures = Failures(f"logger.{name}")
    for method in _METHODS:
        if callable(found := getattr(logger, method, None)):
            setattr(logger, method, _Attempted(failures, found))
    logger.failures = failures  # type: ignore[attr-defined]
    return logger

"""What lrflow says when something is wrong: every problem at once, each with its key, value and remedy."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        key: where it stands, as it is typed on the command line (`optimizer.lr`).
        message: what is wrong and what was expected, in one sentence without a full stop.
        value: what stood there, as the user wrote it; `...` for nothing to show.
        hint: the nearest valid spelling or the remedy, if there is one.
        where: file and line, if the value came from a file.
    """

    key: str
    message: str
    value: object = ...
    hint: str | None = None
    where: str | None = None

    def __str__(self) -> str:
        shown = "" if self.value is ... else f" = {self.value!r}"
        text = f"{self.key}{shown}: {self.message}"
        if self.where:
            text += f" ({self.where})"
        return f"{text}\n    {self.hint}" if self.hint else text


class LrflowError(Exception):
    """A failure that is told in one clear message, without a traceback."""

    exit_code = 1


class StoppedError(LrflowError):
    """The process was asked to stop, and did so in good order; a sweep stops with it.

    Args:
        message: what was stopped, and how to go on.
        exit_code: 128 plus the signal.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)

    def __reduce__(self) -> tuple[type[StoppedError], tuple[str, int]]:
        return StoppedError, (str(self), self.exit_code)


class SignalReceived(KeyboardInterrupt):  # no error, as Ctrl-C is none
    """A signal that asks the process to stop, raised wherever the process is, as Python raises Ctrl-C.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def cause_of(error: BaseException) -> BaseException:
    """What really ended a run, of what it raised.

    Lightning turns SIGTERM and Ctrl-C into exits with codes that say nothing of them (2.6.6). An exit of anybody else's
    stays one.
    """
    if isinstance(error, SystemExit):
        if type(error).__name__ == "SIGTERMException":
            error = SignalReceived(signal.SIGTERM)
        elif isinstance(error.__context__, KeyboardInterrupt):
            error = error.__context__
    if isinstance(error, SignalReceived):
        return StoppedError(f"stopped as asked by {signal.Signals(error.number).name}", 128 + error.number)
    return error


class PrunedError(LrflowError):
    """A trial of a sweep was given up early; the sweep goes on.

    Args:
        message: when, and by what.
        metrics: the last that it had, by name.
    """

    exit_code = 0

    def __init__(self, message: str, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics = dict(metrics or {})
        super().__init__(message)

    def __reduce__(self) -> tuple[type[PrunedError], tuple[str, dict[str, float]]]:
        return PrunedError, (str(self), self.metrics)


class DivergedError(LrflowError):
    """The run's loss, gradients or weights are no longer finite."""


class EndedEarlyError(LrflowError):
    """The run made fewer steps than its plan has, since something else ended it; it was validated and tested.

    Args:
        message: after how many of how many steps, and by what.
        metrics: the last that it had, by name.
    """

    exit_code = 3

    def __init__(self, message: str, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics = dict(metrics or {})
        super().__init__(message)

    def __reduce__(self) -> tuple[type[EndedEarlyError], tuple[str, dict[str, float]]]:
        return EndedEarlyError, (str(self), self.metrics)


class ConfigError(LrflowError):
    """The configuration cannot be run; holds every problem that was found.

    Args:
        problems: at least one.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Problem]]]:
        return ConfigError, (self.problems,)


LISTED = 50  # names that a hint lists at most; of more, nobody reads the others


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest in spelling to `word`, best first; empty when none is close."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.6)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known spelling; where none is near, them all, or the nearest few of very many."""
    known = list(known)
    if close := nearest(word, known, count=1):
        return f"did you mean {close[0]}?"
    if len(known) <= LISTED:
        return f"known: {', '.join(known)}" if known else None
    few = difflib.get_close_matches(word, known, n=5, cutoff=0.3)
    return f"the nearest of {len(known)}: {', '.join(few)}" if few else None

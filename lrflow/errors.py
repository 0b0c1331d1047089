"""Exceptions of lrflow and the problems they report, each with key, value, expectation and nearest valid spelling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        key: config key as it is typed on the command line (`optimizer.lr`), flag or file.
        message: what is wrong and what was expected, in one sentence without a full stop.
        value: value as the user wrote it; `...` prints none.
        hint: nearest valid spelling or remedy, if there is one.
        where: file and line, if the value came from a file.
    """

    key: str
    message: str
    value: object = ...
    hint: str | None = None
    where: str | None = None

    def under(self, key: str) -> Problem:
        """Return the problem under another key of the same value, also where its hint says what to write."""
        hint = self.hint and self.hint.replace(f"{self.key}=", f"{key}=")
        return replace(self, key=key, hint=hint)

    def __str__(self) -> str:
        value = "" if self.value is ... else f" = {written(self.value, repr)}"
        text = f"{self.key}{value}: {self.message}"
        if self.where:
            text += f" ({self.where})"
        return f"{text}\n    {self.hint}" if self.hint else text


@dataclass(frozen=True)
class UnknownProblem(Problem):
    """A key that does not exist where it stands.

    Args:
        known: the keys that exist there.
    """

    known: tuple[str, ...] = ()


def written(value: object, write: Callable[[object], str] = str) -> str:
    """Return a value as text, or what it is if Python cannot write it: a huge number, or a nest that is too deep."""
    try:
        return write(value)
    except (ValueError, RecursionError):
        return f"({type(value).__name__} that is too long to show)"


class LrflowError(Exception):
    """Base class of failures that are reported with their message alone, without a traceback."""

    exit_code = 1


class StoppedError(LrflowError):
    """Raised when a signal stopped the run in good order; a sweep stops with it.

    Args:
        message: what was stopped, and how to resume it.
        exit_code: 128 plus the number of the signal.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)

    def __reduce__(self) -> tuple[type[StoppedError], tuple[str, int]]:
        return StoppedError, (str(self), self.exit_code)


class SignalReceived(BaseException):  # like KeyboardInterrupt, it is not an error
    """Raised by the handler of a signal that asks the process to stop, as Python raises KeyboardInterrupt on Ctrl-C.

    It is no KeyboardInterrupt, after which Lightning (2.6.6) ignores every further Ctrl-C and ends with exit code 1.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class PrunedError(LrflowError):
    """Raised when a trial of a sweep is pruned; the sweep continues.

    Args:
        message: when the trial was pruned, and by what.
        metrics: last metrics of the trial by name.
    """

    exit_code = 0

    def __init__(self, message: str, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics = dict(metrics or {})
        super().__init__(message)

    def __reduce__(self) -> tuple[type[PrunedError], tuple[str, dict[str, float]]]:
        return PrunedError, (str(self), self.metrics)


class ProcessDiedError(LrflowError):
    """Raised when the process of a job ended without a result."""


class TimeLimitError(LrflowError):
    """Raised when a job took longer than `sweep.timeout`, or a sweep longer than `sweep.max_time`."""


class DivergedError(LrflowError):
    """Raised when loss, gradients or weights are no longer finite."""


class ExampleError(LrflowError):
    """Raised when an example cannot be read during a run, also in a loader's worker process.

    Args:
        message: which one, and why. torch's loader puts the traceback of the worker before it, which is left out here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2].rstrip())


class SettingError(LrflowError):
    """Raised when only the run itself shows that a setting is wrong, such as a metric that its module does not log."""

    exit_code = 2


class EndedEarlyError(LrflowError):
    """Raised when something other than lrflow ended a run before its last planned step; it was validated and tested.

    Args:
        message: after how many of the planned steps the run ended, and why.
        metrics: last metrics of the run by name.
    """

    exit_code = 3

    def __init__(self, message: str, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics = dict(metrics or {})
        super().__init__(message)

    def __reduce__(self) -> tuple[type[EndedEarlyError], tuple[str, dict[str, float]]]:
        return EndedEarlyError, (str(self), self.metrics)


class ConfigError(LrflowError):
    """Raised when the config is invalid; holds every problem that was found.

    Args:
        problems: at least one problem.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Problem]]]:
        return ConfigError, (self.problems,)


def shortened(cell: str, most: int = 24) -> str:
    """Return the start of a text from a user's file, for a message: the file may hold what nobody should see."""
    line = "".join(sign if sign.isprintable() else " " for sign in cell[: most + 1])
    return line if len(line) <= most else f"{line[:most]}..."


LISTED = 50  # maximum number of names that a hint lists


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known names closest in spelling to `word`, best first; empty if none is close."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.6)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint with the nearest known spelling; if none is near, a list of all names or of the nearest few."""
    known = list(known)
    if close := nearest(word, known, count=1):
        return f"did you mean {close[0]}?"
    if len(known) <= LISTED:
        return f"known: {', '.join(known)}" if known else None
    few = difflib.get_close_matches(word, known, n=5, cutoff=0.3)
    return f"the nearest of {len(known)}: {', '.join(few)}" if few else None


def first_named(names: Iterable[str], message: str) -> str | None:
    """Return the argument that a message names first: `etas` also as eta, `hessian_power` also as Hessian Power."""
    found: dict[str, int] = {}
    for name in names:
        words = re.escape(name.removesuffix("s")).replace("_", "[_ ]")
        if match := re.search(rf"(?<![\w']){words}s?(?!\w)", message, re.IGNORECASE):
            found[name] = match.start()
    return min(found, key=lambda name: (found[name], -len(name)), default=None)

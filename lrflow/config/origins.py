"""Where a value came from: file and line of a recipe or of a config of the user's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrflow.config.files import line_of, short_path
from lrflow.errors import Problem


@dataclass(frozen=True)
class Source:
    """A YAML file that took part in a composition.

    Args:
        path: the file.
        package: the dotted key under which its content stands; empty: at the root.
    """

    path: Path
    package: str

    def place(self, key: str, nearest: bool = False) -> str | None:
        """File and line of a key of the config; None where this file does not give it.

        Args:
            key: dotted, as on a command line.
            nearest: else the line of the last key above it that the file gives.
        """
        if not covers(self.package, key):
            return None
        line = line_of(key.removeprefix(self.package).lstrip("."), self.path, nearest and bool(self.package))
        return f"{short_path(self.path)}:{line}" if line else None


def place(problem: Problem, sources: Sequence[Source], typed: Iterable[str]) -> Problem:
    """Adds file and line to the problem of a value that came from a file, where it does not know them.

    Args:
        problem: of a config.
        sources: the files, in the order in which they were composed: later ones win.
        typed: keys that the command line sets, which wins over every file.
    """
    return replace(problem, where=problem.where or _place(problem, sources, typed))


def _place(problem: Problem, sources: Sequence[Source], typed: Iterable[str]) -> str | None:
    if any(covers(key, problem.key) for key in typed):
        return None
    places = [source.place(problem.key) for source in reversed(sources)]
    if problem.value is ...:  # nothing stands there, so the place to look at is the one above
        places += [source.place(problem.key, nearest=True) for source in reversed(sources)]
    return next(filter(None, places), None)


def covers(key: str, other: str) -> bool:
    """Whether `other` is `key` or stands below it; the empty key is the root."""
    return not key or other == key or other.startswith((f"{key}.", f"{key}["))


def touches(key: str, others: Iterable[str]) -> bool:
    """Whether a key is one of the others, or stands above or below one."""
    return any(covers(key, other) or covers(other, key) for other in others)

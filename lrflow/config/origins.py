"""File and line of a config value, and the reading of YAML files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lrflow.errors import Problem

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, as OmegaConf would not read it: for looking at keys, not at numbers.

    Raises:
        yaml.YAMLError, OSError, UnicodeDecodeError: it cannot be read.
    """
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def yaml_problem(error: BaseException | None) -> Problem | None:
    """What a failure to read YAML says, with file and line; None where the failure is another one."""
    while error is not None:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            mark = error.problem_mark
            message = error.problem if not error.context else f"{error.problem}, {error.context}"
            return Problem("YAML", f"cannot be read: {message}", where=f"{short_path(Path(mark.name))}:{mark.line + 1}")
        error = error.__cause__ or error.__context__
    return None


def line_of(key: str, path: Path, nearest: bool = False) -> int | None:
    """The line, from 1, on which a key stands in a YAML file; None where it does not.

    Args:
        key: dotted, below the root of the file; empty for the file itself.
        path: the file.
        nearest: else the line of the last key above it that does.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    line = 1 if nearest or not key else None
    for part in split_key(key):
        found = _child(node, part)
        if found is None:
            return line if nearest else None
        line, node = found
    return line


def line_with(pattern: str, path: Path) -> int | None:
    """The first line, from 1, in which a regular expression is found; None where it is in none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, start=1) if re.search(pattern, line)), None)


def split_key(key: str) -> list[str | int]:
    """`layers.rules[2].lr` as its parts: `layers`, `rules`, 2, `lr`."""
    return [int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)]


def short_path(path: Path) -> str:
    """A path as it is shortest to read: relative where it lies below the working directory."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _child(node: Any, part: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


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

"""Where a value came from: file and line of a config of the user's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

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

    def line(self, key: str, exact: bool = True) -> int | None:
        """The line, from 1, on which a key stands in this file.

        Args:
            key: dotted, as on the command line.
            exact: False: else the line of the nearest key above it.
        """
        parts, package = split(key), split(self.package)
        if parts[: len(package)] != package:
            return None
        try:
            node = yaml.compose(self.path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        line = 1 if not exact and package else None
        for part in parts[len(package) :]:
            found = _child(node, part)
            if found is None:
                return None if exact else line
            line, node = found
        return line


def split(key: str) -> list[str | int]:
    """`layers.rules[2].lr` as its parts, `["layers", "rules", 2, "lr"]`."""
    return [int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)(?!\])|\[(\d+)\]", key)]


def _child(node: Any, part: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        return value.start_mark.line + 1, value
    return None


def annotate(problems: Iterable[Problem], sources: Sequence[Source], typed: Sequence[str]) -> list[Problem]:
    """Adds file and line to the problems of values that came from a file.

    Args:
        problems: some of which may know where they are.
        sources: the user's files, in the order in which they were composed: later ones win.
        typed: keys that the command line sets, which wins over every file.
    """
    return [problem if problem.where else replace(problem, where=_place(problem, sources, typed)) for problem in problems]


def _place(problem: Problem, sources: Sequence[Source], typed: Sequence[str]) -> str | None:
    key = problem.key
    if any(key == other or key.startswith((f"{other}.", f"{other}[")) for other in typed):
        return None
    for exact in (True, False) if problem.value is ... else (True,):
        for source in reversed(sources):
            if line := source.line(key, exact):
                return f"{shown(source.path)}:{line}"
    return None


def shown(path: Path) -> str:
    """A path as it is shortest to read: relative to the working directory where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

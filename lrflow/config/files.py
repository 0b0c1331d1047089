"""YAML files: read, and searched for the line on which a key stands."""

from __future__ import annotations

import re
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

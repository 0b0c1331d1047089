"""File and line of a config value, and the reading and writing of YAML."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_omega_conf_dumper

from lrflow.errors import Problem

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_MOST_VALUES = 1_000_000


def check_aliases(root: yaml.Node) -> None:
    """Refuse a document whose aliases stand for too many values, of which OmegaConf would copy each.

    Raises:
        yaml.constructor.ConstructorError: they stand for more than a million, or for one that contains itself.
    """
    sizes: dict[int, float] = {}

    def size(node: yaml.Node) -> float:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")  # until it is known: a node that contains itself has no end
            of_mapping = isinstance(node, yaml.MappingNode)
            inner = [value for _, value in node.value] if of_mapping else node.value
            sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    if size(root) > _MOST_VALUES:
        message = f"its aliases stand for more than {_MOST_VALUES:,} values"
        raise yaml.constructor.ConstructorError(None, None, message, root.start_mark)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file, for reading keys; OmegaConf would parse some numbers differently.

    Raises:
        yaml.YAMLError, OSError, UnicodeDecodeError: the file cannot be read.
    """
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def as_yaml(content: Any) -> str:
    """Return plain containers as YAML that OmegaConf reads back, by YAML's C emitter, which is ten times as fast."""
    return yaml.dump(content, Dumper=_dumper(), default_flow_style=False, allow_unicode=True, sort_keys=False)


@cache
def _dumper() -> Any:
    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True  # equal lists are written twice

    Dumper.add_representer(str, get_omega_conf_dumper().str_representer)  # it quotes texts such as 1e-3 and on
    return Dumper


SCHEMA = "lrflow.schema.json"
"""The file into which `lrflow schema` is written, for the files in its folder and below."""

MODELINE = "# yaml-language-server: $schema="
"""Start of the comment that names the JSON schema of a YAML file to an editor."""


def schema_line(folder: Path, definition: str = "") -> str:
    """Return the first line of a YAML file, by which an editor finds its JSON schema; empty if there is none.

    Args:
        folder: the folder of the file; the schema lies in it or above.
        definition: the part of the schema that describes the file; empty: a config or a recipe.
    """
    for above in (folder.absolute(), *folder.absolute().parents):
        if (above / SCHEMA).is_file():
            path = Path(os.path.relpath(above / SCHEMA, folder.absolute())).as_posix()
            return f"{MODELINE}{path}{f'#/definitions/{definition}' if definition else ''}\n"
    return ""


READ_ERRORS = (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError)
"""What reading a YAML file raises; and a ValueError for a number of more than 4300 digits, see `is_of_digits`."""


def is_of_digits(error: BaseException) -> bool:
    """Return whether an error is Python's for a whole number of more than 4300 digits."""
    return isinstance(error, ValueError) and str(error).startswith("Exceeds the limit (")


def yaml_problem(error: BaseException | None) -> Problem | None:
    """Return the problem of an error of the YAML parser, with file and line; None for any other error."""
    while error is not None:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            mark = error.problem_mark
            message = error.problem if not error.context else f"{error.problem}, {error.context}"
            hint = None
            if error.problem == "mapping values are not allowed here":
                hint = "a value with a colon and a space in it needs quotes; ${calc:1 / 2} needs none without the space"
            return Problem(
                "YAML", f"cannot be read: {message}", hint=hint, where=f"{short_path(Path(mark.name))}:{mark.line + 1}"
            )
        error = error.__cause__ or error.__context__
    return None


def line_of(key: str, path: Path, nearest: bool = False) -> int | None:
    """Return the number of the line of a key in a YAML file, counted from 1; None if the file lacks the key.

    Args:
        key: dotted key below the root of the file; empty for the file itself.
        path: the file.
        nearest: if the file lacks the key, return the line of its closest parent.
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
    """Return the number of the first line that matches a regular expression, counted from 1; None without a match."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, start=1) if re.search(pattern, line)), None)


def split_key(key: str) -> list[str | int]:
    """Return the parts of a key: `layers`, `rules`, 2 and `lr` of `layers.rules[2].lr`."""
    return [int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)]


def short_path(path: Path) -> str:
    """Return a path relative to the working directory if it lies below it, otherwise absolute."""
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
    """A YAML file of a composition.

    Args:
        path: the file.
        package: dotted key of its content in the config; empty for the root.
    """

    path: Path
    package: str

    def place(self, key: str, nearest: bool = False) -> str | None:
        """Return file and line of a key of the config; None if this file does not set it.

        Args:
            key: dotted key, as on a command line.
            nearest: if the file lacks the key, return the line of its closest parent.
        """
        if not covers(self.package, key):
            return None
        line = line_of(key.removeprefix(self.package).lstrip("."), self.path, nearest and bool(self.package))
        return f"{short_path(self.path)}:{line}" if line else None


def place(problem: Problem, sources: Sequence[Source], typed: Iterable[str]) -> Problem:
    """Return a problem with the file and line of its value, unless it has them already.

    Args:
        problem: problem of a config.
        sources: files in the order of their composition: later ones override earlier ones.
        typed: keys that the command line sets, which overrides every file.
    """
    return replace(problem, where=problem.where or _place(problem, sources, typed))


def _place(problem: Problem, sources: Sequence[Source], typed: Iterable[str]) -> str | None:
    if any(covers(key, problem.key) for key in typed):
        return None
    places = [source.place(problem.key) for source in reversed(sources)]
    if problem.value is ...:  # the key is missing, so its parent is the place
        places += [source.place(problem.key, nearest=True) for source in reversed(sources)]
    return next(filter(None, places), None)


def covers(key: str, other: str) -> bool:
    """Return whether `other` is `key` or lies below it; the empty key is the root."""
    return not key or other == key or other.startswith((f"{key}.", f"{key}["))


def touches(key: str, others: Iterable[str]) -> bool:
    """Return whether a key equals one of the others, or lies above or below one."""
    return any(covers(key, other) or covers(other, key) for other in others)


def is_typed(key: str, typed: Iterable[str]) -> bool:
    """Return whether the command line gives the value of a key; a recipe, an option or a run folder gives any other.

    Args:
        key: dotted key.
        typed: result of `overrides.typed_keys`.
    """
    return any(covers(one, key) for one in typed)

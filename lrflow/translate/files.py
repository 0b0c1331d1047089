"""Files of other tools, read as data: YAML, JSON, plain assignments of Python, command lines, archives of Keras."""

from __future__ import annotations

import json
import lzma
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lrflow.config.origins import READ_ERRORS, check_aliases, is_of_digits, short_path, yaml_problem
from lrflow.errors import ConfigError, Problem
from lrflow.translate.assignments import read_assignments

MOST_BYTES = 16 * 2**20
"""Largest file that is read."""

MOST_DEPTH = 100
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, RuntimeError, ValueError,
    OverflowError,
)  # fmt: skip
_FLAG = re.compile(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


class _Loader(yaml.SafeLoader):
    """Builds plain data; an OrderedDict, as rl-zoo writes it, is a mapping."""


def _ordered(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    """Return the pairs of an OrderedDict, `[[[key, value], ...]]`, as a mapping."""
    given = loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []
    try:
        return dict(*given)
    except (TypeError, ValueError):
        raise yaml.constructor.ConstructorError(
            None, None, "expected the pairs of an OrderedDict", node.start_mark
        ) from None


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)


@dataclass(frozen=True)
class Source:
    """A file, read.

    Args:
        path: of the file.
        data: its keys and values.
        form: `keys` (YAML, JSON, the config in an archive), `python` or `flags`.
        unreadable: by key, why a value of a Python file is not plain data.
        script: of a command line, the name of the program.
    """

    path: Path
    data: Mapping[str, Any]
    form: str
    unreadable: Mapping[str, str] = field(default_factory=dict)
    script: str = ""

    @property
    def name(self) -> str:
        """The file as messages name it."""
        return short_path(self.path)


def read_source(path: Path) -> Source:
    """Read a file of another tool.

    Raises:
        ConfigError: it cannot be read, is too large, or holds no keys.
    """
    text = _member(path, "config.json") if path.suffix == ".keras" else _text(path)
    if path.suffix == ".py":
        try:
            found, unreadable = read_assignments(text)
        except SyntaxError as error:
            raise _unreadable(path, f"is no Python file: {error.msg}", line=error.lineno) from None
        except (RecursionError, MemoryError, ValueError):
            raise _unreadable(path, "is nested too deeply") from None
        return Source(path, found, "python", unreadable)
    if path.suffix not in (".yaml", ".yml", ".json", ".keras") and re.search(r"(?:^|\s)--[a-z]", text):
        return _flags(path, text)
    data = _parsed(path, text)
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise _unreadable(path, "holds no keys with values", "a config that a tool has written or reads")
    return Source(path, data, "keys")


def sibling(path: Path, name: str) -> Mapping[str, Any]:
    """Return the keys of a JSON file beside another one; none if there is no such file, or it cannot be read."""
    try:
        data = _parsed(path.with_name(name), _text(path.with_name(name)))
    except ConfigError:
        return {}
    return data if isinstance(data, Mapping) else {}


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise _absent(path)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    return _decoded(path, content)


def _member(path: Path, name: str) -> str:
    """Return the text of one file of an archive; nothing is unpacked, and no other file is read."""
    try:
        if not path.is_file():
            raise _absent(path)
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            content = file.read(MOST_BYTES + 1)
    except KeyError:
        raise _unreadable(path, f"is an archive without {name}", "a model that model.save wrote has it") from None
    except _ARCHIVE_ERRORS as error:
        raise _unreadable(path, f"is no archive that can be read: {error}") from None
    return _decoded(path, content)


def _decoded(path: Path, content: bytes) -> str:
    if len(content) > MOST_BYTES:
        raise _unreadable(path, f"has more than {MOST_BYTES // 2**20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        hint = {
            "training_args.bin": "json.dump(args.to_dict(), file) writes the arguments of transformers as JSON",
            ".h5": "model.save('model.keras') writes the format of Keras 3",
        }
        raise _unreadable(path, "is no text; nothing of a pickle is loaded", hint.get(path.name, hint.get(path.suffix)))
    return text


def _parsed(path: Path, text: str) -> Any:
    """Return the content of a JSON or YAML text."""
    try:
        if path.suffix in (".json", ".keras"):
            data = json.loads(text)
        else:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is not None:
                check_aliases(root)
            data = yaml.load(text, Loader=_Loader)  # a SafeLoader
        if _depth(data) > MOST_DEPTH:
            raise RecursionError
        return data
    except json.JSONDecodeError as error:
        raise _unreadable(path, f"is no JSON: {error.msg}", line=error.lineno) from None
    except RecursionError:
        raise _unreadable(path, "is nested too deeply") from None
    except (*READ_ERRORS, ValueError) as error:
        problem = yaml_problem(error)
        line = error.problem_mark.line + 1 if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else None
        message = problem.message if problem else "cannot be read"
        message = "holds a number of too many digits" if is_of_digits(error) else message
        raise _unreadable(path, message, line=line) from None


def _depth(data: Any, level: int = 0) -> int:
    """Return how deeply containers are nested, up to just above the limit."""
    if level > MOST_DEPTH or not isinstance(data, Mapping | list):
        return level
    inner = data.values() if isinstance(data, Mapping) else data
    return max((_depth(item, level + 1) for item in inner), default=level)


def _flags(path: Path, text: str) -> Source:
    """Read a command line, or a file with one flag per line."""
    kept = re.sub(r"\\\r?\n", " ", text)
    try:
        words = shlex.split(kept, comments=True)
    except ValueError as error:
        raise _unreadable(path, f"is no command line: {error}") from None
    data: dict[str, Any] = {}
    key, script = None, ""
    for word in words:
        match = _FLAG.fullmatch(word)
        if match and not _NUMBER.fullmatch(word):
            key = match[1].replace("-", "_")
            data[key] = True if match[2] is None else _value(match[2])
        elif key is None or word.endswith(".py"):
            script, key = word, None
        elif data[key] is True:
            data[key] = _value(word)
        else:
            data[key] = [*(data[key] if isinstance(data[key], list) else [data[key]]), _value(word)]
    return Source(path, data, "flags", script=script)


def _value(word: str) -> Any:
    """Return a word of a command line as a number, a truth value or a text."""
    if word in ("True", "False", "true", "false"):
        return word.lower() == "true"
    if _NUMBER.fullmatch(word) and len(word) < 100:
        number = float(word)
        return int(word) if re.fullmatch(r"[+-]?\d+", word) else number
    return word


def _absent(path: Path) -> ConfigError:
    if path.is_dir():
        return _unreadable(path, "is a folder", "give the config file in it")
    return _unreadable(path, "is no file" if path.exists() else "there is no such file")


def _unreadable(path: Path, message: str, hint: str | None = None, line: int | None = None) -> ConfigError:
    where = None if line is None else f"{short_path(path)}:{line}"
    return ConfigError([Problem("lrflow translate", message, str(path), hint, where)])

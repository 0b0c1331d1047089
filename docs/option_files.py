"""What the file of an option says, and the docstrings of the classes that it names."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from lrflow.config.composition.options import Option
from lrflow.config.packages import EXTRAS


@dataclass(frozen=True)
class Key:
    """A value that an option sets.

    Args:
        name: as it is typed, below the group: `shape.k`.
        default: as it is written in the file.
        comment: what is said about it; empty where nothing is.
    """

    name: str
    default: str
    comment: str


@dataclass(frozen=True)
class Page:
    """An option as its file tells of it.

    Args:
        option: which one.
    """

    option: Option

    @property
    def name(self) -> str:
        """As it is typed: `schedule=cosine`."""
        return f"{self.option.group}={self.option.name}"

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the file."""
        return self.option.path.read_text(encoding="utf-8").splitlines()

    @cached_property
    def head(self) -> list[str]:
        """The comments at the start of the file, without those for Hydra; the first says what it is."""
        said = []
        for line in self.lines:
            if not line.startswith("#"):
                break
            if not line.startswith("# @package"):
                said.append(line.lstrip("# "))
        return said

    @cached_property
    def tree(self) -> yaml.MappingNode:
        """The file's nodes."""
        node = yaml.compose("\n".join(self.lines), Loader=yaml.SafeLoader)
        return node if isinstance(node, yaml.MappingNode) else yaml.MappingNode("map", [])  # comments only

    @cached_property
    def keys(self) -> list[Key]:
        """Its values, without targets, lists of mappings, overrides of other groups and what follows other values."""
        return list(self._keys(self.tree, ""))

    def _keys(self, node: yaml.MappingNode, prefix: str) -> Iterator[Key]:
        target = next((value.value for key, value in node.value if key.value == "_target_"), "")
        for key, value in node.value:
            if key.value in ("_target_", "defaults") or _is_list_of_mappings(value):
                continue
            name = f"{prefix}{key.value}"
            if isinstance(value, yaml.MappingNode) and value.value:
                yield from self._keys(value, f"{name}.")
            elif not self._text(value).startswith("${"):  # else it follows another
                yield Key(name, self._text(value), self._comment(key, value) or _argument(target, key.value))

    def _text(self, node: yaml.Node) -> str:
        """A value as it is written."""
        start, end = node.start_mark, node.end_mark
        if start.line == end.line:
            return self.lines[start.line][start.column : end.column]
        return " ".join(line.split(" #")[0].strip() for line in self.lines[start.line : end.line + 1])

    def _comment(self, key: yaml.Node, value: yaml.Node) -> str:
        """The comments on the lines above a key and behind its value."""
        above: list[str] = []
        first = len(self.head) + sum("@package" in line for line in self.lines[:2])
        for line in reversed(self.lines[first : key.start_mark.line]):
            if not line.lstrip().startswith("#"):
                break
            above.insert(0, line.strip().lstrip("# "))
        behind = re.match(r"[\s}\],]*#\s*(.*)", self.lines[value.end_mark.line][value.end_mark.column :])
        return " ".join([*above, *([behind.group(1).strip()] if behind else [])])

    @property
    def rules(self) -> str:
        """Its lists of mappings, as they are written; empty where it has none."""
        found = []
        for key, value in self.tree.value:
            if key.value != "defaults" and _is_list_of_mappings(value):
                found += self.lines[key.start_mark.line : _last_line(value) + 1]
        return "\n".join(found)

    @property
    def overrides(self) -> dict[str, str]:
        """The options of other groups that it takes along."""
        content = yaml.safe_load("\n".join(self.lines)) or {}
        entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
        return {
            re.sub(r"^(override\s+)?/|@.*$", "", group): str(option)
            for entry in entries
            for group, option in entry.items()
        }

    @cached_property
    def targets(self) -> list[str]:
        """What it builds, outermost first."""
        return list(dict.fromkeys(re.findall(r"\b_target_: *([\w.]+)", "\n".join(self.lines))))

    @property
    def needs(self) -> list[str]:
        """The packages of lrflow's extras that it cannot do without, as they are installed."""
        roots = dict.fromkeys(target.partition(".")[0] for target in self.targets)
        return [EXTRAS[root][0] for root in roots if root in EXTRAS]

    def classes(self, *without: str) -> list[Any]:
        """The classes of lrflow's that it builds, outermost first."""
        own = [target for target in self.targets if target.startswith("lrflow.") and target not in without]
        return [_located(target) for target in own]


def about(cls: Any) -> str:
    """A class's docstring up to its arguments."""
    return re.split(r"\n\s*(?:Args|Returns|Raises|Attributes|Example)s?:\n", inspect.getdoc(cls) or "")[0].strip()


def formula(cls: Any) -> str:
    """What a shape computes, which the first line of its `__call__` says."""
    first = (inspect.getdoc(cls.__call__) or "").partition("\n")[0].rstrip(".")
    return re.sub(r"^Return (the multipliers[:,] )?", "", first)


def intro(cls: Any) -> str:
    """The docstring of the module that a class is in."""
    return (inspect.getdoc(inspect.getmodule(cls)) or "").strip()


def _argument(target: str, name: str) -> str:
    """What the docstring of a class of lrflow's says about an argument, on its first line."""
    if not target.startswith("lrflow."):
        return ""
    found = re.search(rf"^    {name}: (.+)$", inspect.getdoc(_located(target)) or "", re.MULTILINE)
    return found.group(1).rstrip(".") if found else ""


def _located(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _is_list_of_mappings(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and any(isinstance(item, yaml.MappingNode) for item in node.value)


def _last_line(node: yaml.Node) -> int:
    """The line of a node's last character: a block ends where the next one starts."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.line

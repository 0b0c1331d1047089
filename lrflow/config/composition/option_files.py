"""What option files say of their keys: values as a config has them, and the comments beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from omegaconf._utils import get_yaml_loader
from pydantic import BaseModel

from lrflow.config.composition.options import Option
from lrflow.config.json_types import Member, fields_of, rest_of
from lrflow.config.origins import check_aliases
from lrflow.config.schemas.objects import Node

Place = tuple[str | int, ...]
"""Keys and indices from the root of a file to a value."""


class OptionFile(NamedTuple):
    """An option file.

    Args:
        content: its values; empty if it cannot be read or holds no mapping.
        comments: the comment behind a key, by its place.
    """

    content: dict[str, Any]
    comments: dict[Place, str]


def read_option(path: Path) -> OptionFile:
    """Read an option file; one that cannot be read is empty, since the check of a config reports it."""
    try:
        text = path.read_text(encoding="utf-8")
        content, root = yaml.load(text, Loader=_loader()), yaml.compose(text, Loader=_loader())
        if root is not None:
            check_aliases(root)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError):
        return OptionFile({}, {})
    comments: dict[Place, str] = {}
    _collect(root, (), text.splitlines(), comments)
    return OptionFile(content if isinstance(content, dict) else {}, comments)


@cache
def _loader() -> Any:
    """Return YAML's C parser with OmegaConf's types, by which 1e-3 is a number."""

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    return Loader


def _collect(node: Any, place: Place, lines: list[str], found: dict[Place, str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect(item, (*place, index), lines, found)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            is_block = not isinstance(value, yaml.ScalarNode) and not value.flow_style
            mark = key.end_mark if is_block else value.end_mark
            rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
            if comment := re.match(r"[:,}\]\s]*\s#\s*(.+)", rest):
                found[*place, key.value] = comment[1].strip()
            _collect(value, (*place, key.value), lines, found)


@dataclass(frozen=True)
class Use:
    """A node of an option file that describes an object.

    Args:
        option: the option.
        section: the schema of the node.
        target: its `_target_`, or the default of it.
        place: where it stands in the file.
        content: its values by argument.
        comments: the comments beside them.
    """

    option: Option
    section: type[BaseModel]
    target: str
    place: Place
    content: Mapping[str, Any]
    comments: Mapping[str, str]


def uses_in(option: Option, described: Member) -> Iterator[Use]:
    """Yield the nodes of an option file.

    Args:
        option: the option.
        described: type of its content.
    """
    file = read_option(option.path)
    for section, place, content in _nodes(described, file.content, ()):
        target = content.get("_target_", getattr(section, "default", None))
        if isinstance(target, str) and target != "???":
            said = {name: file.comments[*place, name] for name in content if (*place, name) in file.comments}
            yield Use(option, section, target, place, content, said)


def _nodes(described: Member, value: Any, place: Place) -> Iterator[tuple[type[BaseModel], Place, Mapping[str, Any]]]:
    """Yield the schema, the place and the content of each node in a value."""
    if isinstance(value, list) and get_origin(described.kind) is list:
        for index, item in enumerate(value):
            yield from _nodes(Member(get_args(described.kind)[0]), item, (*place, index))
    if not isinstance(value, Mapping):
        return
    for kind in described.members_of(value):
        section = kind.section
        below: dict[str, Member] = {}
        if get_origin(kind.kind) is dict:
            below = dict.fromkeys(value, Member(get_args(kind.kind)[1]))
        elif section is not None:
            rest = rest_of(section)
            below = {} if rest is None else dict.fromkeys(value, rest)
            below |= {key: field for key, _, field, _ in fields_of(section)}
            if issubclass(section, Node):
                yield section, place, value
        for name, item in value.items():
            if name in below:
                yield from _nodes(below[name], item, (*place, name))

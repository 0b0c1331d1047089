"""Copies of OmegaConf's nodes are what OmegaConf itself would make, in every attribute."""

from __future__ import annotations

import copy
import enum
from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ReadonlyConfigError
from omegaconf.nodes import AnyNode, BooleanNode, EnumNode, FloatNode, IntegerNode, StringNode

from lrflow.config import compose
from lrflow.config.composition.hydra_options import adapt_hydra

VALUES = (AnyNode, BooleanNode, EnumNode, FloatNode, IntegerNode, StringNode)


class Colour(enum.Enum):
    RED = 1


@dataclass
class Typed:
    count: int = 3
    share: float | None = None
    rate: float = 0.5
    on: bool = True
    colour: Colour = Colour.RED
    either: int | str = "a"
    names: list[str] = field(default_factory=lambda: ["a", "b"])


def attributes(node: Any, parent: Any) -> dict[str, Any]:
    """All that a node is, without its cache of flags; it must know its parent."""
    assert node.__dict__["_parent"] is parent
    found = {name: value for name, value in node.__dict__.items() if name not in ("_parent", "_flags_cache")}
    found |= {"type": type(node), "_metadata": vars(node.__dict__["_metadata"])}
    content = found.get("_content")
    if isinstance(content, dict):
        found["_content"] = [(key, attributes(value, node)) for key, value in content.items()]
    elif isinstance(content, list):
        found["_content"] = [attributes(value, node) for value in content]
    elif hasattr(content, "_metadata"):
        found["_content"] = attributes(content, node)
    return found


def configs() -> list[Any]:
    node = OmegaConf.create({"a": {"b": [1, None, {"c": "${a.d}"}], "d": "???"}, "n": None, "i": "${a.b}", 3: b"x"})
    OmegaConf.set_struct(node.a, True)
    OmegaConf.set_readonly(node.a.b, True)
    return [compose([]).source, node, node.a, node.a.b, OmegaConf.structured(Typed), OmegaConf.create({"t": Typed})]


def test_a_copy_equals_that_of_omegaconf(monkeypatch: pytest.MonkeyPatch) -> None:
    adapt_hydra()
    found = configs()
    copies = [attributes(copy.deepcopy(node), node._get_parent()) for node in found]
    for kind in (DictConfig, ListConfig, *VALUES):
        monkeypatch.setattr(kind, "__deepcopy__", kind.__deepcopy__.of_omegaconf)  # type: ignore[attr-defined]
    assert copies == [attributes(copy.deepcopy(node), node._get_parent()) for node in found]


def test_a_copy_is_independent_and_keeps_its_flags() -> None:
    adapt_hydra()
    node = configs()[1]
    other = copy.deepcopy(node)
    OmegaConf.set_struct(node.a, False)  # before a flag of the copy is read: a flag that was read is kept
    OmegaConf.set_readonly(node.a.b, False)
    with pytest.raises(ConfigAttributeError):
        other.a.new = 1
    with pytest.raises(ReadonlyConfigError):
        other.a.b.append(1)
    other.a.d, other.n = 1, 2
    assert (OmegaConf.is_missing(node.a, "d"), node.n) == (True, None)
    assert other.a.b[2].c == 1

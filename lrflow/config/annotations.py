"""Values that the annotation of an argument allows, read from its text: nothing is imported."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from numbers import Real
from typing import Any

from lrflow.errors import Problem, did_you_mean
from lrflow.limits import Limit, is_whole

Lookup = Callable[[str], "ast.expr | None"]
"""Finds the definition of a name that an annotation mentions, such as that of a type alias."""

_DEEPEST = 8  # nested annotations and aliases

NODE = {"type": "object", "required": ["_target_"]}
"""JSON schema of a mapping that describes an object."""


@dataclass(frozen=True)
class Annotation:
    """An annotation that was not evaluated.

    Args:
        node: its syntax tree.
        lookup: finds the definitions of names in it.
    """

    node: ast.expr
    lookup: Lookup = lambda name: None

    def alternatives(self) -> set[str]:
        """Return the names of a union's members, or the one name that it is."""
        left, found = [self.node], set()
        while left:
            node = left.pop()
            if isinstance(node, ast.BinOp):
                left += [node.left, node.right]
            elif isinstance(node, ast.Name):
                found.add(node.id)
        return found

    def names(self) -> set[str]:
        """Return the names that it mentions."""
        return {node.id for node in ast.walk(self.node) if isinstance(node, ast.Name)}

    @classmethod
    def of(cls, annotation: Any, names: Mapping[str, Any]) -> Annotation | None:
        """Return the annotation of a function that was imported; None if there is none, or if it has no text.

        Args:
            annotation: as `inspect.signature` returns it.
            names: names in the module of the function.
        """

        def lookup(name: str) -> ast.expr | None:
            found = names.get(name)
            return None if found is None or isinstance(found, type) else _parsed(inspect.formatannotation(found))

        if annotation is Parameter.empty:
            return None
        node = _parsed(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))
        return None if node is None else cls(node, lookup)


def check_value(parameter: Parameter, value: Any, key: str) -> Problem | None:
    """Return the problem of a value that the annotation of its parameter excludes; None if it is allowed or unknown.

    Args:
        parameter: parameter with an `Annotation`, or with none; its default, if it is known, is always allowed.
        value: value in the config, with interpolations resolved.
        key: config key of the value.
    """
    if not isinstance(parameter.annotation, Annotation):
        return None
    limit = limit_of(parameter.annotation)
    if limit is None or limit.holds(value):
        return None
    default = parameter.default
    if default is None and value is None:
        return None
    if default not in (Parameter.empty, None, ...) and not limit.holds(default):
        return None  # the annotation is wrong
    return Problem(key, f"expected {limit.expected}", value, _hint(limit, value, key))


def limit_of(annotation: Annotation) -> Limit | None:
    """Return the values that an annotation allows; None if it does not settle them.

    Known are bool, int, float, str, None, Literal, paths, and unions, lists, tuples and mappings of these. A whole
    number may stand for a float, a list for a tuple. A mapping with `_target_` stands for the object that it builds.
    """
    limit = _limit(annotation.node, annotation.lookup, 0)
    if limit is None:
        return None
    return Limit(limit.expected, lambda value: _is_node(value) or limit.holds(value), limit.words, limit.json)


def _hint(limit: Limit, value: Any, key: str) -> str | None:
    if isinstance(value, str):
        if limit.words:
            return did_you_mean(value, limit.words)
        if any(limit.holds(read) for read in _numbers_in(value)):
            return f"it is text: write {value.strip()} without quotes"
    elif isinstance(value, int | float) and limit.holds(str(value)):
        return f"""put it in quotes: '{key}="{str(value).lower() if isinstance(value, bool) else value}"'"""
    return None


def _numbers_in(text: str) -> list[Any]:
    """Return what a text may be meant as: a number or a switch; empty if it is neither."""
    found: list[Any] = []
    for kind in (int, float):
        try:
            found.append(kind(text))
        except ValueError:
            continue
    return [*found, *(value for word, value in (("true", True), ("false", False)) if text.lower() == word)]


_TEXT = Limit("text", lambda value: isinstance(value, str), json={"type": "string"})
_SIMPLE = {
    "bool": Limit("true or false", lambda value: isinstance(value, bool), json={"type": "boolean"}),
    "int": Limit("a whole number", is_whole, json={"type": "integer"}),
    "float": Limit(
        "a number", lambda value: isinstance(value, Real) and not isinstance(value, bool), json={"type": "number"}
    ),
    "str": _TEXT,
    "Path": Limit("a path", _TEXT.holds, json=_TEXT.json),
    "PathLike": Limit("a path", _TEXT.holds, json=_TEXT.json),
    "None": Limit("null", lambda value: value is None, json={"type": "null"}),
    "Tensor": Limit("a tensor", lambda value: False, json={"not": {}}),
}
_MANY = ("list", "List", "Sequence", "MutableSequence", "Iterable", "Collection", "set", "Set", "frozenset")
_MAPPINGS = ("dict", "Dict", "Mapping", "MutableMapping", "OrderedDict")
_PLURALS = {"text": "texts", "a number": "numbers", "a whole number": "whole numbers", "true or false": "switches"}


def _limit(node: ast.expr | None, lookup: Lookup, depth: int) -> Limit | None:
    if node is None or depth > _DEEPEST:
        return None
    match node:
        case ast.Constant(value=None):
            return _SIMPLE["None"]
        case ast.Constant(value=str() as text):
            return _limit(_parsed(text), lookup, depth + 1)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _any_of([left, right], lookup, depth)
        case ast.Subscript(value=value, slice=inner):
            return _subscript(_last(value), _elements(inner), lookup, depth + 1)
        case ast.Name() | ast.Attribute():
            name = _last(node)
            if name in _SIMPLE:
                return _SIMPLE[name]
            if name in (*_MANY, "tuple", "Tuple"):
                return _many(name, None)
            if name in _MAPPINGS:
                return _mapping()
            return _limit(lookup(name), lookup, depth + 1)
    return None


def _subscript(name: str, inner: list[ast.expr], lookup: Lookup, depth: int) -> Limit | None:
    match name:
        case "Optional":
            return _any_of([*inner, ast.Constant(None)], lookup, depth)
        case "Union":
            return _any_of(inner, lookup, depth)
        case "Annotated" | "Final" | "ClassVar" | "Required":
            return _limit(inner[0], lookup, depth)
        case "Literal":
            return _literal(inner)
        case "tuple" | "Tuple":
            return _tuple(inner, lookup, depth)
    if name in _MANY:
        return _many(name, _limit(inner[0], lookup, depth))
    return _mapping() if name in _MAPPINGS else None


def _any_of(members: list[ast.expr], lookup: Lookup, depth: int) -> Limit | None:
    limits = []
    for member in members:
        limit = _limit(member, lookup, depth + 1)
        if limit is None:
            return None
        limits.append(limit)
    shown = [limit.expected for limit in limits if limit is not _SIMPLE["Tensor"] and limit is not _SIMPLE["None"]]
    if "a number" in shown:
        shown = [text for text in shown if text != "a whole number"]
    text = " or ".join(dict.fromkeys(shown)) or limits[0].expected
    text += ", or null" if _SIMPLE["None"] in limits and shown else ""
    words = tuple(word for limit in limits for word in limit.words)
    forms = [limit.json for limit in limits if limit is not _SIMPLE["Tensor"]]
    json = {"anyOf": forms} if all(forms) else {}
    return Limit(text, lambda value: any(limit.holds(value) for limit in limits), words, json)


def _literal(inner: list[ast.expr]) -> Limit | None:
    values = [node.value for node in inner if isinstance(node, ast.Constant)]
    if len(values) < len(inner):
        return None
    shown = ["null" if value is None else str(value) for value in values]
    return Limit(
        f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0],
        lambda value: any(type(value) is type(known) and value == known for known in values),
        tuple(value for value in values if isinstance(value, str)),
        {"enum": values},
    )


def _tuple(inner: list[ast.expr], lookup: Lookup, depth: int) -> Limit | None:
    if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
        return _many("tuple", _limit(inner[0], lookup, depth))
    limits = [_limit(node, lookup, depth) for node in inner]
    kinds = {None if limit is None else limit.expected for limit in limits}
    (kind,) = kinds if len(kinds) == 1 else (None,)
    what = _plural(kind) if kind else "entries"

    def holds(value: Any) -> bool:
        return _is_list(value) and len(value) == len(limits) and all(map(_fits, limits, value))

    json = {"type": "array", "minItems": len(limits), "maxItems": len(limits)}
    return Limit(f"a list of {len(limits)} {what}", holds, json=json | _items(limits[0] if kind else None))


def _many(name: str, each: Limit | None) -> Limit:
    text = f"a list of {_plural(each.expected)}" if each else "a list"
    characters = name in ("Sequence", "Iterable", "Collection") and (each is None or each.holds("a"))

    def holds(value: Any) -> bool:
        if isinstance(value, str):
            return characters
        return _is_list(value) and all(_fits(each, item) for item in value)

    listed = {"type": "array", **_items(each)}
    return Limit(text, holds, json={"anyOf": [listed, {"type": "string"}]} if characters else listed)


def _items(each: Limit | None) -> dict[str, Any]:
    return {"items": {"anyOf": [each.json, NODE]}} if each and each.json else {}


def _mapping() -> Limit:
    return Limit("a mapping", lambda value: isinstance(value, Mapping), json={"type": "object"})


def _fits(limit: Limit | None, value: Any) -> bool:
    return limit is None or _is_node(value) or limit.holds(value)


def _plural(text: str) -> str:
    return _PLURALS.get(text, f"entries, each {text}")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_node(value: Any) -> bool:
    """Return whether a value describes an object, which may be of any type."""
    return isinstance(value, Mapping) and "_target_" in value


def _last(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _elements(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None

"""The arguments that a class takes, read from the source text of its module: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from importlib.machinery import PathFinder
from inspect import Parameter
from pathlib import Path
from typing import Any


def parameters_in_source(target: str) -> dict[str, Parameter] | None:
    """Return the arguments of a class that can be passed by name, without the values of their defaults.

    A class that hands its `**options` on to a parent of lrflow's takes what the parent takes.

    Args:
        target: the dotted name of the class, as its module defines or imports it.

    Returns:
        The arguments by name; the default of an optional one is `...`. None: the text does not settle it, since the
        class is decorated, inherits its `__init__` or hands its `**options` on to a class of another package.
    """
    module, _, name = target.rpartition(".")
    found = _find_class(module, name)
    if found is None or found[1].decorator_list or found[1].keywords:
        return None
    home, definition = found
    methods = {entry.name: entry for entry in definition.body if isinstance(entry, ast.FunctionDef)}
    init = methods.get("__init__")
    if init is None or init.decorator_list or init.args.posonlyargs or "__new__" in methods:
        return None
    positional, optional = init.args.args[1:], len(init.args.defaults)
    taken: dict[str, Any] = {argument.arg: Parameter.empty for argument in positional[: len(positional) - optional]}
    taken |= {argument.arg: ... for argument in positional[len(taken) :]}
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        taken[argument.arg] = Parameter.empty if default is None else ...
    own = {key: Parameter(key, Parameter.KEYWORD_ONLY, default=default) for key, default in taken.items()}
    if init.args.kwarg is None:
        return own
    parent = definition.bases[0] if definition.bases else None
    if not isinstance(parent, ast.Name) or not home.startswith("lrflow."):
        return None
    inherited = parameters_in_source(f"{home}.{parent.id}")
    return None if inherited is None else {**inherited, **own}


def _find_class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Return the definition of a class and its module, following `from ... import`."""
    tree, is_package = _parse(module)
    for entry in tree.body:
        if isinstance(entry, ast.ClassDef) and entry.name == name:
            return module, entry
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_class(_imported_from(node, module, is_package), alias.name)
    return None


def _imported_from(entry: ast.ImportFrom, module: str, is_package: bool) -> str:
    """Return the dotted name of the module that a module imports from."""
    if not entry.level:
        return entry.module or ""
    parts = module.split(".")
    above = parts[: len(parts) - entry.level + is_package]
    return ".".join([*above, *filter(None, [entry.module])])


@cache
def _parse(module: str) -> tuple[ast.Module, bool]:
    """Return the syntax tree of a module, empty where it has no source text, and whether it is a package."""
    path, spec = None, None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), path)
        if spec is None:
            return ast.Module([], []), False
        path = spec.submodule_search_locations
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ast.Module([], []), False
    return ast.parse(Path(spec.origin).read_bytes()), path is not None

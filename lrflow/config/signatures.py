"""The arguments that a class takes, with their annotations, read from the source of its module: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache, partial
from importlib.machinery import PathFinder
from inspect import Parameter
from pathlib import Path
from typing import Any

import lrflow
from lrflow.config.annotations import Annotation

_DEEPEST = 8  # modules that import a name from each other


def parameters_in_source(target: str) -> dict[str, Parameter] | None:
    """Return all arguments of a class that can be passed by name; see `named_in_source`.

    A class that hands its `**options` on to a parent of lrflow's takes what the parent takes.

    Args:
        target: the dotted name of the class, as its module defines or imports it.

    Returns:
        The arguments by name. None: the text does not settle it, since the class is decorated, inherits its `__init__`
        or hands its `**options` on to a class of another package.
    """
    own, complete = named_in_source(target)
    return own if complete else None


def named_in_source(target: str) -> tuple[dict[str, Parameter], bool]:
    """Return the arguments of a class that its text names, and whether these are all that it takes.

    Args:
        target: the dotted name of the class, as its module defines or imports it.

    Returns:
        The arguments by name, each with its `Annotation`, if it has one; the default of an optional one is `...` where
        it is no literal.
    """
    module, _, name = target.rpartition(".")
    found = _find(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return {}, False
    home, definition = found[0], found[1]
    assert isinstance(definition, ast.ClassDef)
    if definition.decorator_list or definition.keywords:
        return {}, False
    methods = {entry.name: entry for entry in definition.body if isinstance(entry, ast.FunctionDef)}
    init = methods.get("__init__")
    if init is None or init.decorator_list or init.args.posonlyargs or "__new__" in methods:
        return {}, False
    own = _own(init.args, home)
    if init.args.kwarg is None:
        return own, True
    parent = definition.bases[0] if definition.bases else None
    if not isinstance(parent, ast.Name) or not home.startswith("lrflow."):
        return own, False
    inherited, complete = named_in_source(f"{home}.{parent.id}")
    return {**inherited, **own}, complete


def packages_of_recipe(module: str) -> set[str]:
    """Return the packages that a module of a recipe imports, also through the modules of recipes that it imports."""
    packages, seen, left = set(), {module}, [module]
    while left:
        home = left.pop()
        tree, is_package = _parse(home)
        names = [alias.name for entry in tree.body if isinstance(entry, ast.Import) for alias in entry.names]
        for entry in tree.body:
            if isinstance(entry, ast.ImportFrom):
                above = _imported_from(entry, home, is_package)
                names += [above, *(f"{above}.{alias.name}" for alias in entry.names)]
        packages |= {name.partition(".")[0] for name in names}
        more = {name for name in names if name.startswith("lrflow.recipes.")} - seen
        seen |= more
        left += more
    return packages


def _own(arguments: ast.arguments, home: str) -> dict[str, Parameter]:
    """Return the arguments of an `__init__` in the module `home`, without `self`."""
    positional = arguments.args[1:]
    given: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*given, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {
        argument.arg: Parameter(
            argument.arg,
            Parameter.POSITIONAL_OR_KEYWORD if argument in positional else Parameter.KEYWORD_ONLY,
            default=Parameter.empty if default is None else _literal(default),
            annotation=Parameter.empty
            if argument.annotation is None
            else Annotation(argument.annotation, partial(_definition, home)),
        )
        for argument, default in pairs
    }


def _literal(node: ast.expr) -> Any:
    """Return the value of an expression, or `...` where it is no literal."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return ...


def _definition(module: str, name: str) -> ast.expr | None:
    """Return the expression that a module assigns to a name or imports under it; None if there is none."""
    found = _find(module, name)
    return found[1] if found and isinstance(found[1], ast.expr) else None


def _find(module: str, name: str, depth: int = 0) -> tuple[str, ast.ClassDef | ast.expr] | None:
    """Return the class or the value that a name stands for in a module, and its module; follows `from ... import`."""
    tree, is_package = _parse(module)
    for entry in tree.body:
        if isinstance(entry, ast.ClassDef) and entry.name == name:
            return module, entry
        if isinstance(entry, ast.Assign | ast.AnnAssign) and entry.value is not None:
            targets = entry.targets if isinstance(entry, ast.Assign) else [entry.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if name in names:
                return module, entry.value
    for node in ast.walk(tree) if depth < _DEEPEST else ():
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(_imported_from(node, module, is_package), alias.name, depth + 1)
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
    source = _source(module)
    if source is None:
        return ast.Module([], []), False
    return ast.parse(source.read_bytes()), source.name == "__init__.py"


def _source(module: str) -> Path | None:
    """Return the file of a module; None: it has no source text, or is not installed."""
    package, *below = module.split(".")
    if package == "lrflow":  # whose recipes lie in a folder of their own, without __init__.py
        names = ["/".join([*below, "__init__.py"]), "/".join(below) + ".py"]
        places = [Path(root) / name for root in lrflow.__path__ for name in names]
        return next((place for place in places if place.is_file()), None)
    path, spec = None, None
    for depth in range(len(below) + 1):
        spec = PathFinder.find_spec(".".join([package, *below[:depth]]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None

"""What the source of a class says: the arguments that it takes, with annotations and texts; nothing is imported."""

from __future__ import annotations

import ast
import re
from functools import cache, partial
from importlib.machinery import PathFinder
from inspect import Parameter
from itertools import pairwise
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
        The arguments by name. None: the text does not settle it, since the class is decorated (but for `dataclass`),
        inherits its `__init__` or hands its `**options` on to a class of another package.
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
    if any(isinstance(base, ast.Name) and base.id == "BaseModel" for base in definition.bases):
        return _fields(definition, home), False  # of pydantic: its config may allow others
    is_dataclass = bool(definition.decorator_list) and all(map(_names_dataclass, definition.decorator_list))
    if definition.keywords or (definition.decorator_list and not is_dataclass):
        return {}, False
    methods = {entry.name: entry for entry in definition.body if isinstance(entry, ast.FunctionDef)}
    init = methods.get("__init__")
    if is_dataclass and init is None and "__new__" not in methods:
        return _fields(definition, home), True
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


def _names_dataclass(node: ast.expr) -> bool:
    return (
        isinstance(called := node.func if isinstance(node, ast.Call) else node, ast.Name) and called.id == "dataclass"
    )


def _fields(definition: ast.ClassDef, home: str) -> dict[str, Parameter]:
    """Return the fields of a dataclass and of the dataclasses that it extends, as the arguments that it takes."""
    found: dict[str, Parameter] = {}
    for base in reversed(definition.bases):
        above = _find(home, base.id) if isinstance(base, ast.Name) else None
        if above and isinstance(above[1], ast.ClassDef) and any(map(_names_dataclass, above[1].decorator_list)):
            found |= _fields(above[1], above[0])
    for entry in definition.body:
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            annotation = Annotation(entry.annotation, partial(_definition, home))
            if "ClassVar" not in annotation.names() and _is_given(entry.value):
                found[entry.target.id] = _field(entry.target.id, entry.value, annotation)
    return found


def _is_given(value: ast.expr | None) -> bool:
    """Return whether a field is an argument: not one of `field(init=False)`."""
    keywords = value.keywords if isinstance(value, ast.Call) else []
    return not any(keyword.arg == "init" and _literal(keyword.value) is False for keyword in keywords)


def _field(name: str, value: ast.expr | None, annotation: Annotation) -> Parameter:
    default = Parameter.empty if value is None else _literal(value)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        default = _literal(given["default"]) if "default" in given else Parameter.empty
        default = ... if "default_factory" in given else default
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


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


def docstring_in_source(target: str) -> tuple[str, dict[str, str]]:
    """Return the first line of a class's docstring and what it says of each argument; empty where there is none.

    Args:
        target: the dotted name of the class.
    """
    module, _, name = target.rpartition(".")
    found = _find(module, name)
    text = ast.get_docstring(found[1]) if found and isinstance(found[1], ast.ClassDef) else None
    return ((text or "").partition("\n")[0], _arguments_in(text or ""))


def _arguments_in(docstring: str) -> dict[str, str]:
    """Return the text of each argument in the section `Args:` of a docstring."""
    _, _, section = docstring.partition("\nArgs:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line.strip() and not line.startswith("    "):
            break
        if entry := re.match(r"    (\w+)(?: \([^)]*\))?: (.*)", line):
            name, found[entry[1]] = entry[1], entry[2].strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def attributes_in_source(kind: type) -> dict[str, str]:
    """Return the text below each attribute of a class and of its parents in lrflow."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        home = _find(base.__module__, base.__name__) if base.__module__.startswith("lrflow.") else None
        body = home[1].body if home and isinstance(home[1], ast.ClassDef) else []
        for entry, text in pairwise(body):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and is_text:
                found[entry.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return found

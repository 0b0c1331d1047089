"""Specs: schedules as plain data and back, so that plans can be saved, compared and rebuilt."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import lrflow.schedules as package
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.schedules._arguments import unknown_argument
from lrflow.schedules.curve import Curve
from lrflow.schedules.levels import AbsoluteLR
from lrflow.schedules.pieces import shape_factory
from lrflow.schedules.time import LATER, Duration

ResolveClass = Callable[[str], type]  # maps a `_target_` to its class

_PACKAGE = "lrflow.schedules"


def to_spec(part: Any) -> Any:
    """Return a schedule, shape or horizon as dicts, lists, strings and numbers, in the form of a config."""
    if isinstance(part, Duration):
        return str(part)
    if isinstance(part, AbsoluteLR):
        return str(part)
    if hasattr(part, "spec"):  # a function, or another part that is no dataclass
        return {name: to_spec(value) for name, value in part.spec().items()}
    if isinstance(part, tuple):
        return [to_spec(item) for item in part]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = [field for field in dataclasses.fields(part) if field.init and not _is_omitted(field, part)]
        return {"_target_": _target(type(part)), **{f.name: to_spec(getattr(part, f.name)) for f in fields}}
    return part


def _is_omitted(field: dataclasses.Field[Any], part: Any) -> bool:
    """Whether a field is omitted from a spec: it was added later and has its default value."""
    return field.metadata == LATER and getattr(part, field.name) == field.default


def _target(cls: type) -> str:
    """Return the dotted name of a class; for lrflow's own, the public one."""
    own = cls.__module__.startswith(f"{_PACKAGE}.")
    return f"{_PACKAGE if own else cls.__module__}.{cls.__qualname__}"


def builtin_class(target: str) -> type:
    """Return the class of lrflow's schedules that a `_target_` names.

    Raises:
        ValueError: it names none of them.
    """
    classes: dict[str, type] = {}
    for name in package.__all__:
        found = getattr(package, name)
        if isinstance(found, type) and dataclasses.is_dataclass(found):
            classes[f"{_PACKAGE}.{name}"] = found
    if target not in classes:
        hint = did_you_mean(str(target), classes)
        raise ValueError("names none of lrflow's schedules" + (f", {hint}" if hint else ""))
    return classes[target]


def from_spec(spec: Mapping[str, Any], key: str = "schedule", resolve: ResolveClass | None = None) -> Curve:
    """Build the curve of a spec.

    Args:
        spec: returned by `to_spec`, or the content of a schedule's config.
        key: its key in the config, for messages.
        resolve: maps a `_target_` to its class, to allow a user's own shapes; by default lrflow's schedules only. It
            raises ConfigError or ValueError for a class that is not allowed.

    Raises:
        ConfigError: lists every problem of the spec.
    """
    problems: list[Problem] = []
    curve = _build(spec, key, resolve or builtin_class, problems)
    if not problems and not isinstance(curve, Curve):
        problems.append(Problem(key, "expected a schedule", spec))
    if problems:
        raise ConfigError(problems)
    return curve


def _build(spec: Any, key: str, resolve: ResolveClass, problems: list[Problem]) -> Any:
    """Return the object of a spec, or None after adding its problems."""
    if not isinstance(spec, Mapping) or "_target_" not in spec:
        problems.append(Problem(key, "expected a mapping with a _target_", spec))
        return None
    try:
        cls: Any = resolve(spec["_target_"])
        if inspect.isfunction(cls):
            cls = shape_factory(cls)
        parameters = inspect.signature(cls).parameters
    except ConfigError as error:
        problems += [dataclasses.replace(p, key=f"{key}._target_") for p in error.problems]
        return None
    except (TypeError, ValueError) as error:
        problems.append(Problem(f"{key}._target_", str(error), spec["_target_"]))
        return None

    arguments: dict[str, Any] = {}
    failed: set[str] = set()  # arguments that have a problem already
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, value in spec.items():
        path = f"{key}.{name}"
        if name == "_target_":
            continue
        if name not in parameters and not takes_any:
            problems.append(unknown_argument(path, value, f"{cls.__name__} takes no such argument", parameters))
            continue
        if isinstance(value, Mapping) and name == "also":  # a mapping from settings to their schedules
            value = _item(value, path, resolve, problems, failed)
        elif isinstance(value, Mapping):
            value = _build(value, path, resolve, problems)
            if value is None:
                failed.add(path)
        elif isinstance(value, list | tuple):
            value = [_item(item, f"{path}[{i}]", resolve, problems, failed) for i, item in enumerate(value)]
        arguments[name] = value
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in arguments:
            problems.append(Problem(f"{key}.{name}", f"{cls.__name__} needs it"))
            failed.add(f"{key}.{name}")
            arguments[name] = None  # so that the other arguments are checked too
    try:
        return cls(**arguments)
    except ConfigError as error:
        own = getattr(cls, "key", "")
        found = [dataclasses.replace(p, key=key + p.key.removeprefix(own)) for p in error.problems]
        problems += [problem for problem in found if problem.key not in failed]
    except (TypeError, ValueError) as error:
        if not failed:
            problems.append(Problem(key, str(error), dict(spec)))
    return None


def _item(item: Any, key: str, resolve: ResolveClass, problems: list[Problem], failed: set[str]) -> Any:
    """Return an item of a list with its nested specs built; the keys of those that fail are added to `failed`."""
    if isinstance(item, list | tuple):
        return [_item(inner, f"{key}[{i}]", resolve, problems, failed) for i, inner in enumerate(item)]
    if not isinstance(item, Mapping):
        return item
    if "_target_" not in item:
        return {name: _item(inner, f"{key}.{name}", resolve, problems, failed) for name, inner in item.items()}
    built = _build(item, key, resolve, problems)
    if built is None:
        failed.add(key)
    return built

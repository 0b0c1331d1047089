"""Checks of the nodes with a `_target_`: what they name, the arguments they give to it, and their values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from lrflow.config.annotations import Annotation, check_value
from lrflow.config.checks.callbacks import refused
from lrflow.config.composition.options import options_with, shipped_nodes
from lrflow.config.diagnostics import closest, held_by
from lrflow.config.packages import EXTRAS, check_installed, is_installed, missing_package
from lrflow.config.schemas.layers import RuleMaker
from lrflow.config.schemas.objects import Data, Model, Optimizer, Schedule
from lrflow.config.signatures import named_in_source, packages_of_recipe, parameters_in_source
from lrflow.config.targets import CONTROLS, check_arguments, check_controls, check_name, locate
from lrflow.errors import ConfigError, Problem, UnknownProblem
from lrflow.objectives import is_known
from lrflow.schedules import Curve, Shape

GROUPS = (
    "optimizer", "schedule", "feedback", "clip", "layers", "model", "data", "augment", "logger", "health", "callbacks",
    "trainer",
)  # fmt: skip
"""The groups that build objects."""

PASSED: dict[str, tuple[Collection[str], Collection[str]]] = {
    "optimizer": (("params",), ("fused", *Optimizer.offered)),
    "layers": ((), RuleMaker.offered),
    "schedule": ((), Schedule.offered),
    "model": ((), Model.offered),
    "data": ((), Data.offered),
    "logger": (("save_dir",), ()),
}
"""By group: arguments that lrflow passes itself, and keys that it passes only to targets with such an argument."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)

_BUILT = re.compile(
    r"(optimizer|feedback|clip|layers|model|data)|optimizer\.routes\.[^.]+|(health|callbacks|augment|logger)\.[^.]+|trainer\.(strategy|plugins\[\d+\])"
)
"""Keys of the nodes whose object lrflow builds itself."""


def check_targets(content: Mapping[str, Any], choices: Mapping[str, str | None]) -> list[Problem]:
    """Return a problem for each `_target_` that is not allowed, not installed or does not take its arguments."""
    problems: list[Problem] = []
    for group in GROUPS:
        for key, node in _nodes(content.get(group), group):
            target = node["_target_"]
            if group == "callbacks" and (problem := refused([str(target)], key)):
                problems.append(problem)
            elif no_texts := [name for name in node if not isinstance(name, str)]:
                reported = bool(_BUILT.fullmatch(key)) or group == "schedule"  # by the schemas
                for name in () if reported else no_texts:
                    problems.append(Problem(f"{key}.{name}", "the name of an argument is text", node[name]))
            elif check_installed(target, key):
                ours = isinstance(target, str) and any(shipped_nodes(group, target))
                problems += filter(None, [check_installed(target, key, choices.get(group) if ours else None)])
            elif key.startswith("model.metrics.") and is_known(target):
                pass  # `check_objective` knows its arguments
            elif group == "schedule" or ".schedule" in key:
                problems += check_curve(node, key)
            else:
                problems += _check_built(node, key) or check_node(node, key, group, choices.get(group), content)
    return problems


def _check_built(node: Mapping[str, Any], key: str) -> list[Problem]:
    """Return a problem for each key that controls how an object is built, where lrflow builds it."""
    problems = check_controls(node, key)
    if problems or not _BUILT.fullmatch(key):
        return problems
    if node.get("_partial_"):
        message = "lrflow needs the object itself, not a function that makes it"
        problems.append(Problem(f"{key}._partial_", message, node["_partial_"], "leave it out"))
    if node.get("_args_") and key.startswith("optimizer"):
        message = "lrflow passes the parameters, so the other arguments need their names"
        problems.append(Problem(f"{key}._args_", message, node["_args_"], f"such as {key}.weight_decay=0.01"))
    return problems


def _nodes(content: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping with a `_target_`, with its key."""
    if isinstance(content, Mapping):
        if "_target_" in content:
            yield key, content
        for name, value in content.items():
            yield from _nodes(value, f"{key}.{name}")
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _nodes(value, f"{key}[{index}]")


def check_node(
    node: Mapping[str, Any], key: str, group: str, option: str | None, content: Mapping[str, Any]
) -> list[Problem]:
    """Check the arguments of one node with a `_target_`: their names, and values that no option of lrflow's has.

    For a target of lrflow's own options or of its packages, the keys of the options and the source text of its class
    define its arguments. Any other target is imported.

    Args:
        node: the node.
        key: its key in the config.
        group: its group.
        option: chosen option of the group.
        content: resolved config.
    """
    target = node["_target_"]
    if problem := check_name(target, f"{key}._target_"):
        return [problem]
    if target.startswith("lrflow.recipes."):
        needed = packages_of_recipe(target.rpartition(".")[0]) & EXTRAS.keys()
        if missing := [package for package in sorted(needed) if not is_installed(package)]:
            return [missing_package(package, f"{key}._target_", target) for package in missing]
    extra, ignore = PASSED.get(group, ((), ()))
    given = node.keys() - set(ignore) - set(CONTROLS)
    own = next(shipped_nodes(group, target, option), None)
    if (
        own
        and given <= own.keys() <= node.keys()
        and "_args_" not in node
        and all(_is_shipped(node[name], name, [own], content) for name in given)
    ):
        return []  # the files of the other options need not be read
    shipped = list(shipped_nodes(group, target, option))
    if not shipped and key == "clip" and (problem := _check_guard(target)):
        return [problem]
    known = {name for other in shipped for name in other}
    is_ours = bool(known) or target.startswith("lrflow.")
    whole = [other for other in shipped if other.keys() <= node.keys()]
    names = [*(name for name in known if name not in CONTROLS), *ignore]
    meant = {name: closest(name, names) for name in given - known}
    if whole and all(meant.values()) and not node.get("_args_"):  # also if none is misspelt
        problems = [
            Problem(f"{key}.{name}", f"{target} takes no {name}", node[name], f"did you mean {key}.{near}?")
            for name, near in meant.items()
        ]
    else:
        settled = parameters_in_source(target) if is_ours else None
        problems = check_arguments(target, node, key, extra, ignore, settled)
    problems = [_held_elsewhere(problem, group) if key == group else problem for problem in problems]
    changed = {name: node[name] for name in sorted(given) if not _is_shipped(node[name], name, shipped, content)}
    wrong = {problem.key for problem in problems}
    changed = {name: value for name, value in changed.items() if f"{key}.{name}" not in wrong}
    if changed and f"{key}._target_" not in wrong:
        problems += check_values(target, changed, key, named_in_source(target)[0] if is_ours else {})
    return problems


def _check_guard(target: str) -> Problem | None:
    """Return a problem for a class that is no guard, whatever its arguments are."""
    try:
        found = locate(target, "clip._target_")
    except ConfigError as error:
        return error.problems[0]
    if isinstance(found, type) and not issubclass(found, locate("lrflow.clip.Clip")):
        return Problem("clip._target_", "is not a guard: expected a class derived from lrflow.clip.Clip", target)
    return None


def _held_elsewhere(problem: Problem, group: str) -> Problem:
    """Return the problem of an unknown argument with the options of its group that have it; others unchanged."""
    name = problem.key.rpartition(".")[2]
    if not isinstance(problem, UnknownProblem) or name in CONTROLS or closest(name, problem.known):
        return problem
    if others := options_with(group, name):
        return Problem(problem.key, problem.message, problem.value, held_by(others))
    return problem


def _is_shipped(value: Any, name: str, nodes: Iterable[Mapping[str, Any]], content: Mapping[str, Any]) -> bool:
    """Return whether one of lrflow's own options gives an argument this value."""
    return any(_is_same(value, node[name], content) for node in nodes if name in node)


def _is_same(value: Any, written: Any, content: Mapping[str, Any]) -> bool:
    """Return whether a value is the one written in a YAML file, or the one that it refers to there."""
    if isinstance(written, list):
        same = isinstance(value, list) and len(value) == len(written)
        return same and all(_is_same(*pair, content) for pair in zip(value, written, strict=True))
    if isinstance(written, str) and (key := re.fullmatch(r"\$\{([\w.]+)\}", written)):
        found: Any = content
        for part in key.group(1).split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return _is_equal(value, found)
    if isinstance(value, float) and isinstance(written, str):  # YAML 1.1 reads 1e-6 as text
        return _NUMBER.fullmatch(written) is not None and float(written) == value
    return _is_equal(value, written)


def _is_equal(value: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types: 10.0 and true are no whole numbers."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_is_equal, value, other))
    return type(value) is type(other) and bool(value == other)


def check_values(
    target: str, arguments: Mapping[str, Any], key: str, named: Mapping[str, inspect.Parameter]
) -> list[Problem]:
    """Return a problem for each value that the annotation of its argument excludes.

    Args:
        target: dotted name.
        arguments: values in the config, by argument.
        key: config key of the node.
        named: the target's parameters as its source text has them; empty: import the target.
    """
    if not named:
        try:
            named = {name: annotated(locate(target), name) for name in arguments}
        except ConfigError as error:
            return error.problems
    prefix = f"{key}." if key else ""
    checked = (check_value(named[name], value, f"{prefix}{name}") for name, value in arguments.items() if name in named)
    return [problem for problem in checked if problem]


def annotated(found: Any, name: str) -> inspect.Parameter:
    """Return a parameter of a class or function, of the nearest class that names it, with its `Annotation`."""
    owners = (
        [vars(base)["__init__"] for base in found.__mro__ if "__init__" in vars(base)] if inspect.isclass(found) else []
    )
    for owner in owners or [found]:
        try:
            parameter = inspect.signature(owner).parameters.get(name)
        except (ValueError, TypeError):
            continue
        if parameter is not None and parameter.kind is not parameter.VAR_KEYWORD:
            names = getattr(inspect.unwrap(owner), "__globals__", {})
            annotation = Annotation.of(parameter.annotation, names)
            return parameter.replace(annotation=annotation or parameter.empty)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)


_FACTOR = re.compile(r"\.of\[\d+\]$")  # of a product, which may be a shape or a schedule


def check_curve(node: Mapping[str, Any], key: str) -> list[Problem]:
    """Check that a target is a schedule or a shape; lrflow's own check their arguments when the schedule is built."""
    try:
        found = locate(node["_target_"], f"{key}._target_")
    except ConfigError as error:
        return error.problems
    factor = _FACTOR.search(key) is not None
    shape = factor or key.endswith(".shape")
    if shape and inspect.isfunction(found):
        return []  # a user's function from the elapsed share of the phase to the multiplier
    if isinstance(found, type) and issubclass(found, (Shape, Curve) if factor else Shape if shape else Curve):
        if found.__module__.startswith("lrflow."):
            return []  # it checks its arguments itself
        given = {name: value for name, value in node.items() if name not in CONTROLS}
        return check_values(node["_target_"], given, key, {})
    kind = "a shape, such as lrflow.schedules.Cosine" if shape else "a schedule"
    return [Problem(f"{key}._target_", f"expected {kind}", node["_target_"])]


def may_be_number(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield each number in quotes that is given to an argument without an annotation.

    Args:
        content: groups of a resolved config, whose targets are imported.

    Yields:
        Key, target, argument and text.
    """
    for group, section in content.items():
        ignore = (*PASSED.get(group, ((), ()))[1], *CONTROLS)
        for key, node in _nodes(section, group):
            if ".schedule" in key:
                continue
            for name, value in node.items():
                if name not in ignore and isinstance(value, str) and _NUMBER.fullmatch(value):
                    parameter = annotated(locate(node["_target_"]), name)
                    if parameter.annotation is parameter.empty:
                        yield f"{key}.{name}", node["_target_"].rpartition(".")[2], name, value

"""Targets: which `_target_`s a config may build, the check of their arguments, and `instantiate`."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lrflow.config.failures import failure, one_line, suspects, users_frames
from lrflow.config.origins import short_path
from lrflow.config.packages import check_installed, missing_package, trusted
from lrflow.errors import ConfigError, LrflowError, Problem, UnknownProblem, did_you_mean, nearest, written
from lrflow.imports import alias_lightning, original_name
from lrflow.optimizers.traits import Traits, package_of, traits_named, traits_of

ROOMS = (
    "lrflow.schedules", "lrflow.layers", "lrflow.optimizers", "lrflow.optimizers.shampoo", "lrflow.optimizers.spam",
    "lrflow.feedback", "lrflow.health", "lrflow.callbacks", "lrflow.models", "lrflow.huggingface", "lrflow.data",
    "lrflow.augment", "lrflow.clip",
    "torch.utils.data",
    "pytorch_lightning.loggers", "pytorch_lightning.callbacks", "pytorch_lightning.strategies",
    "pytorch_lightning.profilers", "pytorch_lightning.plugins", "torchmetrics",
    "torchmetrics.classification", "torchmetrics.regression",
)  # fmt: skip
"""Modules whose exports (`__all__`) a config may name."""

RECIPES = "lrflow.recipes"

TREES = ("torch.nn", "torch.optim", "schedulefree", "prodigyopt", "pytorch_optimizer", RECIPES)
"""Packages whose public classes and functions a config may name at any depth."""

SCHEDULERS = {
    "ConstantLR": "constant",
    "CosineAnnealingLR": "cosine",
    "CosineAnnealingWarmRestarts": "warm_restarts",
    "CyclicLR": "cyclical",
    "ExponentialLR": "exponential",
    "LinearLR": "linear",
    "MultiStepLR": "multistep",
    "OneCycleLR": "one_cycle",
    "PolynomialLR": "polynomial",
    "StepLR": "step",
}
"""Torch's schedulers, each with the option of `schedule` that has the same curve."""

CONTROLS = ("_target_", "_partial_", "_args_")
"""Keys of a node that control how it is built; the others are arguments."""


@dataclass(frozen=True)
class UntrustedProblem(Problem):
    """The problem of a target in a package that the user does not trust.

    Args:
        package: name of the package.
    """

    package: str = ""


_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")


def check_name(target: Any, key: str = "_target_") -> Problem | None:
    """Return the problem of a `_target_`, or None; checks the name without importing it.

    Args:
        target: dotted name.
        key: config key of the name.
    """
    if not isinstance(target, str) or not _NAME.fullmatch(target):
        return Problem(key, "expected the dotted name of a class or function, without private parts", target)
    target = original_name(target)
    if _below(target, "torch.optim.lr_scheduler"):
        same = SCHEDULERS.get(target.rpartition(".")[2])
        instead = f"use schedule={same}, which has the same curve" if same else "see schedule in --help"
        return Problem(key, "a torch scheduler depends on its state, so it cannot be planned", target, instead)
    room = target.rpartition(".")[0]
    if room in ROOMS or any(_below(target, tree) for tree in (*TREES, *trusted())):
        return None
    if above := next((room for room in ROOMS if _below(target, room)), None):
        name = target.rpartition(".")[2]
        hint = f"did you mean {above}.{name}?" if name[0].isupper() else None
        return Problem(key, f"a config may name only what {above} exports", target, hint)
    package = target.partition(".")[0]
    message = f"a config may not build this: the package {package} is not trusted"
    if package in sys.stdlib_module_names:
        return Problem(key, message, target)
    hint = (
        f"if you trust its code, add trust={package} to the command line, "
        f'or [tool.lrflow] trust = ["{package}"] to ./pyproject.toml'
    )
    return UntrustedProblem(key, message, target, hint, package=package)


def locate(target: str, key: str = "_target_") -> Any:
    """Return the class or function that a `_target_` names.

    Both the name and the module that defines the object must lie in lrflow's list of modules or in a package that the
    user trusts. An alias of another module's object, such as `lrflow.x.os.system`, is an error.

    Args:
        target: dotted name.
        key: config key of the name, for the message.

    Raises:
        ConfigError: a config may not build the object, or it does not exist.
    """
    problem = check_name(target, key) or check_installed(target, key.removesuffix("_target_").removesuffix("."))
    if problem:
        raise ConfigError([problem])
    alias_lightning()  # before a user's package is imported, which may import lightning
    target = original_name(target)
    found: Any = None
    parts = target.split(".")
    for depth, part in enumerate(parts, start=1):
        path = ".".join(parts[:depth])
        if depth == 1 or (isinstance(found, ModuleType) and not hasattr(found, part)):
            found = _import(path, target, key)
        else:
            found = getattr(found, part, None)
        if isinstance(found, ModuleType) and found.__name__ != path:
            raise ConfigError([Problem(key, f"leads to another module, {found.__name__}", target)])
        if found is None:
            parent = path.rpartition(".")[0]
            raise ConfigError([Problem(key, f"there is no {part} in {parent}", target)])
    room = target.rpartition(".")[0]
    if room in ROOMS and parts[-1] not in getattr(importlib.import_module(room), "__all__", ()):
        raise ConfigError([Problem(key, f"{room} does not export {parts[-1]}", target)])
    home = _home(found)
    if isinstance(found, partial):
        hint = "name the function itself and give its arguments in the config, or write a function that calls it"
        raise ConfigError([Problem(key, "is a functools.partial, not a class or function", target, hint)])
    places = TREES if any(_below(target, tree) for tree in TREES) else (*ROOMS, *TREES)
    if home is None or not any(_below(f"{home}.", place) for place in (*places, *trusted())):
        raise ConfigError([Problem(key, f"is defined in {home or 'no module'}, which a config may not use", target)])
    is_users = any(_below(target, package) for package in trusted())
    if _below(target, RECIPES) and not is_users and not (inspect.isclass(found) and _is_part(found)):
        message = "of a recipe's code, a config may name only its models and data modules"
        raise ConfigError([Problem(key, message, target)])
    return found


def optimizer_traits(target: str, key: str = "optimizer._target_") -> Traits:
    """Return the traits of the optimizer that a `_target_` names; imports it unless lrflow knows the name.

    Args:
        target: dotted name of a class, or of a function that returns an optimizer.
        key: config key of the name, for the message.

    Raises:
        ConfigError: a config may not build the object, it does not exist, or its own traits are invalid.
    """
    return traits_named(target) or traits_of(locate(target, key), key)


def instantiate(node: Any, key: str = "", /, **extra: Any) -> Any:
    """Build the object that a config describes.

    Args:
        node: mapping with `_target_` and its arguments; nested mappings with `_target_` are built first. `_args_` holds
            positional arguments. `_partial_: true` returns a `functools.partial`. Nodes inside other mappings and lists
            are built too; any other value is returned unchanged.
        key: config key of the node.
        extra: additional keyword arguments of the outermost object; they override those of the node.

    Raises:
        ConfigError: every target that a config may not build, and every argument that a target does not take; or what a
            target of an installed package rejects. An exception of the user's own code passes.
    """
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node, resolve=True)
    problems = _check_tree(node, key, extra)
    if problems:
        raise ConfigError(problems)
    return _build(node, key, extra)


def check_arguments(
    target: str,
    arguments: Mapping[str, Any],
    key: str,
    extra: Collection[str] = (),
    ignore: Collection[str] = (),
    known_parameters: Mapping[str, inspect.Parameter] | None = None,
) -> list[Problem]:
    """Return a problem for each argument that a target does not take, and for each required one that is missing.

    Args:
        target: dotted name.
        arguments: arguments in the config, by name.
        key: config key of the node.
        extra: names of arguments that lrflow passes itself.
        ignore: keys of the node that are not passed to the target.
        known_parameters: parameters of the target; None: import the target and read its signature.
    """
    if known_parameters is not None:
        accepted, anything = dict(known_parameters), False
    else:
        try:
            found = locate(target, f"{key}._target_" if key else "_target_")
        except ConfigError as error:
            return error.problems
        accepted, anything = _parameters(found)
    given = {name: value for name, value in arguments.items() if name not in CONTROLS and name not in ignore}
    prefix = f"{key}." if key else ""
    known = [name for name in accepted if name not in extra]
    problems = []
    for name, value in given.items():
        if name.startswith("_") and name.endswith("_"):
            hint = did_you_mean(name, CONTROLS)
            problems.append(Problem(f"{prefix}{name}", "lrflow has no such key for a node", value, hint))
        elif not anything and name not in accepted:
            near, message = nearest(name, [*known, *ignore], count=1), f"{target} takes no {name}"
            hint = f"did you mean {prefix}{near[0]}?" if near else f"it takes {', '.join(known)}" if known else None
            problems.append(UnknownProblem(f"{prefix}{name}", message, value, hint, known=(*known, *ignore)))
    wrong = check_controls(arguments, key)
    if wrong or arguments.get("_partial_"):
        return problems + wrong
    by_position = [name for name in accepted if accepted[name].kind is not inspect.Parameter.KEYWORD_ONLY]
    by_position = [name for name in by_position if name not in extra][: len(arguments.get("_args_") or ())]
    for name in by_position:
        if name in given:
            problems.append(Problem(f"{prefix}{name}", "is also given by position, in _args_", given[name]))
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in (*given, *extra, *by_position):
            problems.append(Problem(f"{prefix}{name}", f"{target} needs it"))
    return problems


def check_controls(node: Mapping[str, Any], key: str) -> list[Problem]:
    """Return a problem for each of the keys `_partial_` and `_args_` of a node with another kind of value."""
    problems = []
    prefix = f"{key}." if key else ""
    if not isinstance(partly := node.get("_partial_", False), bool):
        problems.append(Problem(f"{prefix}_partial_", "expected true or false", partly))
    if not isinstance(positional := node.get("_args_", []), list | tuple):
        problems.append(Problem(f"{prefix}_args_", "expected a list of arguments", positional))
    return problems


def takes(target: str, name: str) -> bool:
    """Return whether a target's signature names an argument."""
    return name in _parameters(locate(target))[0]


def defaults(target: str) -> dict[str, Any]:
    """Return the default values in a target's signature, by argument."""
    parameters = _parameters(locate(target))[0]
    return {name: one.default for name, one in parameters.items() if one.default is not one.empty}


def _parameters(found: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the arguments that can be passed by name, and whether the target accepts any others.

    A class that passes its `**options` to a parent in lrflow, or to an optimizer with known keywords, accepts the
    arguments of that parent.
    """
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (ValueError, TypeError):
        return {}, True
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    rest = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if rest and inspect.isclass(found):
        # inspect.signature describes the class itself; its own __init__ is the first one along the MRO.
        owners = [cls for cls in found.__mro__ if "__init__" in vars(cls)]
        parent = owners[1] if len(owners) > 1 else object
        swallowed = traits_of(found).swallows
        if swallowed and package_of(f"{owners[0].__module__}.{owners[0].__name__}"):
            for name in swallowed:
                named.setdefault(name, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None))
            return named, False
        if swallowed or parent.__module__.startswith("lrflow."):
            inherited, rest = _parameters(parent)
            named = {**inherited, **named}
    return named, rest


def _check_tree(node: Any, key: str, extra: Collection[str] = ()) -> list[Problem]:
    problems: list[Problem] = []
    if isinstance(node, Mapping):
        if "_target_" in node:
            problems += check_arguments(node["_target_"], node, key, extra)
        for name, value in node.items():
            problems += _check_tree(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            problems += _check_tree(value, f"{key}[{index}]")
    return problems


def _build(node: Any, key: str, extra: Mapping[str, Any]) -> Any:
    prefix = f"{key}." if key else ""
    if isinstance(node, list | tuple):
        return type(node)(_build(value, f"{key}[{index}]", {}) for index, value in enumerate(node))
    if not isinstance(node, Mapping):
        return node
    built = {name: _build(value, f"{prefix}{name}", {}) for name, value in node.items() if name not in CONTROLS}
    if "_target_" not in node:
        return built
    make = locate(node["_target_"], f"{prefix}_target_")
    positional = [_build(value, f"{prefix}_args_[{index}]", {}) for index, value in enumerate(node.get("_args_") or ())]
    arguments = {**built, **extra}
    if node.get("_partial_"):
        return partial(make, *positional, **arguments)
    try:
        return make(*positional, **arguments)
    except Exception as error:
        if isinstance(error, LrflowError) or users_frames(error):
            raise
        raise ConfigError(_rejected(error, make, node, arguments, prefix)) from error


def _rejected(
    error: Exception, make: Any, node: Mapping[str, Any], arguments: Mapping[str, Any], prefix: str
) -> list[Problem]:
    """Return the problems of a target that raises when it is built, under the arguments that it complains about."""
    said = re.sub(rf"^{re.escape(getattr(make, '__name__', ''))}(\.__init__)?\(\):? ", "", one_line(error))
    if explained := failure(error):
        said = one_line(explained) if isinstance(explained, LrflowError) else said
    message = f"{node['_target_']} rejects it: {said}"
    given = {name: value for name, value in arguments.items() if name in node}
    names = [name for name in suspects(make, given, str(error)) if name in given]
    if names:
        return [Problem(f"{prefix}{name}", message, node[name]) for name in names]
    listed = ", ".join(f"{name}={written(value)}" for name, value in given.items())
    message = f"cannot be built with {listed or 'these arguments'}: {said}"
    return [Problem(f"{prefix}_target_", message, node["_target_"])]


def _below(name: str, package: str) -> bool:
    return name.startswith(f"{package}.")


def _is_part(found: type) -> bool:
    """Return whether a class is a model or a data module; the other code of a recipe also draws and writes files."""
    return any(base.__module__.startswith(("torch.nn.", "pytorch_lightning.core.")) for base in found.__mro__)


def _home(found: Any) -> str | None:
    """Return the module that defines a class, a function or a method of a class; None for any other object."""
    if inspect.ismethod(found):
        found = found.__func__  # of the class that defines it, not of one that inherits it
    if inspect.isclass(found) or inspect.isfunction(found):
        return str(found.__module__)
    return None


def _import(path: str, target: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            problem = missing_package(str(error.name).partition(".")[0], key, target)
        elif "." not in path:
            hint = "start lrflow in the folder that contains it, or install it"
            problem = Problem(key, f"there is no package {path} to import", target, hint)
        else:
            parent, _, name = path.rpartition(".")
            above = importlib.import_module(parent)
            public = getattr(above, "__all__", None) or [entry for entry in dir(above) if not entry.startswith("_")]
            problem = Problem(key, f"there is no {name} in {parent}", target, did_you_mean(name, public))
        raise ConfigError([problem]) from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        file, line = frames[-1].filename, frames[-1].lineno
        if isinstance(error, SyntaxError) and error.filename:
            file, line = error.filename, error.lineno
        where = f"{short_path(Path(file))}:{line}"
        message = f"cannot import {path}: {type(error).__name__}: {error}"
        raise ConfigError([Problem(key, message, target, where=where)]) from error


def with_arguments(model: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the group `model` with other arguments; nested mappings are merged."""
    merged = dict(model)
    for name, value in arguments.items():
        before = merged.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = with_arguments(before, value) if both else value  # type: ignore[arg-type]
    return merged

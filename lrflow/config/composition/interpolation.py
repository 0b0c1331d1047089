"""Resolution of a composed config to plain values, with a problem for each interpolation that fails."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from enum import Enum
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.composition.arithmetic import resolve_calc
from lrflow.config.origins import split_key
from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.redaction import is_secret_variable, redactor

DEEPEST = 40
"""How deep a config may be nested."""

_HYDRA_OR_NOW = re.compile(r"\$\{\s*(hydra|now)\s*:[^{}]*\}")
_OPEN = re.compile(r"(name|output|logger|hydra|seed|against|resume|task|trial|horizon)\b")
_MISSING = object()
_NOT_SET = re.compile(r"the environment variable .* is not set")
_CIRCLE = "the interpolations refer to each other in a circle"


def resolve(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """Return the config as plain containers, without the values that cannot be resolved.

    Args:
        config: composed config with interpolations.

    Returns:
        The values, and a problem for each `???` and each interpolation that cannot be resolved.
    """
    problems: list[Problem] = []
    content = _walk(config, "", problems)
    keys = [key for key, _ in leaves(content)]
    return content, [_suggest(problem, keys) for problem in _once_per_variable(problems)]


def _once_per_variable(problems: list[Problem]) -> list[Problem]:
    """Return the problems; of those with one missing variable the first, which names the other keys."""
    missing: dict[str, list[str]] = {}
    for problem in problems:
        if _NOT_SET.fullmatch(problem.message):
            missing.setdefault(problem.message, []).append(problem.key)
    first = {keys[0]: keys[1:] for keys in missing.values()}
    return [
        replace(problem, message=f"{problem.message}; {', '.join(first[problem.key])} needs it too")
        if first.get(problem.key)
        else problem
        for problem in problems
        if problem.message not in missing or problem.key in first
    ]


def resolve_hydra_and_now(config: DictConfig) -> None:
    """Replace interpolations of `hydra:` and `now:` by their values, in place, so that a saved config keeps them.

    Those that have no value stay; `resolve` finds their problems.
    """
    values = (value for _, value in leaves(OmegaConf.to_container(config, resolve=False)))
    if any(isinstance(value, str) and _HYDRA_OR_NOW.search(value) for value in values):
        _settle(config, _without_hydra_and_now)


def _without_hydra_and_now(node: Any, name: Any) -> Any:
    text = str(_unresolved(node, name))
    if _HYDRA_OR_NOW.fullmatch(text):
        return node[name]
    # Other interpolations stay: their values may be secrets.
    return _HYDRA_OR_NOW.sub(lambda part: str(OmegaConf.create({"value": part[0]}).value), text)


def resolve_known(config: DictConfig) -> None:
    """Replace the interpolations of a config by their values, in place; those that have no value yet stay."""
    _settle(config, lambda node, name: node[name])


def _settle(node: Any, value_of: Callable[[Any, Any], Any]) -> None:
    names: Any = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        if OmegaConf.is_missing(node, name):
            continue
        if not OmegaConf.is_interpolation(node, name):
            if isinstance(node[name], DictConfig | ListConfig):
                _settle(node[name], value_of)
            continue
        with suppress(OmegaConfBaseException, RecursionError), flag_override(node, ["readonly", "struct"], False):
            value = value_of(node, name)
            node[name] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def is_deep(content: Any) -> bool:
    """Return whether plain containers are nested more than `DEEPEST` levels; it does not recurse itself."""
    level = [content]
    for _ in range(DEEPEST + 1):
        level = [
            item
            for container in level
            if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return False
    return True


def is_writable(text: str) -> bool:
    """Return whether a text can be written to a file as UTF-8 and be part of a path: no NUL, no half of a character."""
    return text.isprintable() or not any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in text)


def leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is not a container, with its dotted key."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from leaves(value, f"{key}[{index}]")
    else:
        yield key, content


_SIMPLE = re.compile(
    r"\$\{\s*(?:(?P<resolver>oc\.env|now)\s*:(?P<argument>[^${}]*)"
    r"|(?P<own>hydra\s*:\s*)?(?P<key>[A-Za-z_][\w.\[\]-]*)\s*)\}"
)
_SIMPLE_ONES = "only ${key} of a text or number, ${oc.env:NAME} and ${now:FORMAT} can be written here"


def text_of(key: str, text: str, config: DictConfig, seen: tuple[str, ...] = ()) -> Any:
    """Return a text with simple interpolations replaced by their values; other interpolations are an error.

    Hydra builds objects from what it finds below `hydra`, and resolves it again after it was checked. A simple
    interpolation has a text, a number, a switch or null as its value, now and later; any other might become a mapping
    with a `_target_`. OmegaConf's own parser takes a hundred times as long.

    Args:
        key: key of the text, for messages.
        text: the text.
        config: whole config, to which the interpolations refer.
        seen: keys whose values are being resolved.

    Raises:
        ConfigError: an interpolation is not simple, or cannot be resolved.
    """
    if "${" not in text:
        return text
    if "${" in _SIMPLE.sub("", text) or "\\$" in text:
        raise ConfigError([Problem(key, _SIMPLE_ONES, text)])
    if whole := _SIMPLE.fullmatch(text):
        return _value(key, whole, config, seen)
    return _SIMPLE.sub(lambda match: str(_value(key, match, config, seen)), text)


def _value(key: str, match: re.Match[str], config: DictConfig, seen: tuple[str, ...]) -> Any:
    """Return the value of a simple interpolation."""
    if match["resolver"] == "now":
        return datetime.now().strftime(match["argument"])
    if match["resolver"]:
        name, comma, default = (part.strip() for part in match["argument"].partition(","))
        if name not in os.environ and not comma:
            raise ConfigError([unresolvable(key, match[0], f"Environment variable '{name}' not found")])
        return os.environ.get(name, None if default == "null" else default.strip("'\""))
    name = f"hydra.{match['key']}" if match["own"] else match["key"]
    if name in seen:
        raise ConfigError([Problem(key, _CIRCLE, match[0])])
    node = _unresolved_node(config, name)
    if node is None:
        raise ConfigError([unresolvable(key, match[0], f"Interpolation key '{name}' not found")])
    value: Any = node._value()
    if value == "???":
        raise ConfigError([unresolvable(key, match[0], "missing node")])
    if isinstance(value, str):
        return text_of(key, value, config, (*seen, name))
    if value is None or isinstance(value, bool | int | float | Enum):
        return value
    raise ConfigError([Problem(key, f"{_SIMPLE_ONES}; {name} is a mapping or a list", match[0])])


def _unresolved_node(config: DictConfig, key: str) -> Node | None:
    """Return the node of a key without resolving anything on the way; None if there is none."""
    node: Any = config
    for part in split_key(key):
        if not isinstance(node, DictConfig | ListConfig) or node._is_interpolation() or node._is_none():
            return None
        below: Any = node
        try:
            node = below._get_node(part)
        except (OmegaConfBaseException, TypeError, IndexError):
            return None
    return node if isinstance(node, Node) else None


def _walk(node: DictConfig | ListConfig, key: str, problems: list[Problem], depth: int = 0) -> Any:
    mapping = isinstance(node, DictConfig)
    values: dict[Any, Any] = {}
    for name in list(node.keys()) if mapping else range(len(node)):
        path = f"{key}[{name}]" if not mapping else f"{key}.{name}" if key else str(name)
        if OmegaConf.is_missing(node, name):
            what = "my_pkg.Thing trust=my_pkg" if name == "_target_" else "..."
            problems.append(Problem(path, "must be given a value", "???", f"{path}={what}"))
            continue
        try:
            value = node[name]
        except (OmegaConfBaseException, RecursionError) as error:
            problems.append(unresolvable(path, _unresolved(node, name), str(error).partition("\n")[0]))
            continue
        if isinstance(value, DictConfig | ListConfig):
            if depth == DEEPEST:  # of a mapping that holds an interpolation to itself
                message = f"is nested more than {DEEPEST} levels deep, or holds an interpolation to itself"
                problems.append(Problem(path.partition(".")[0], message))
                continue
            value = _walk(value, path, problems, depth + 1)
        if not all(is_writable(text) for text in (name, value) if isinstance(text, str)):
            problems.append(Problem(path, "holds a character that no file or terminal can show", value))
        values[name] = value
    return values if mapping else list(values.values())


def _environment(name: str, default: Any = _MISSING, *, _node_: Any) -> str | None:
    """Resolve `${oc.env:NAME,default}` as OmegaConf does; the value is a secret, unless all can see it at its key.

    Raises:
        KeyError: there is neither such a variable nor a default.
    """
    value = os.environ.get(name)
    if value is None:
        if default is _MISSING:
            raise KeyError(f"Environment variable '{name}' not found")
        return None if default is None else str(default)
    named = is_secret_variable(name)
    if named or not _OPEN.match(_node_._get_full_key(None)):
        redactor.add(value, f"the environment variable {name}", name, named)
    return value


OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
OmegaConf.register_new_resolver("calc", resolve_calc, replace=True)


def _unresolved(node: DictConfig | ListConfig, name: Any) -> Any:
    container: Any = OmegaConf.to_container(node, resolve=False)
    return container[name]


def unresolvable(key: str, given: Any, complaint: str) -> Problem:
    """Return the problem for OmegaConf's error about an interpolation."""
    if found := re.search(r"Environment variable '([^']*)' not found", complaint):
        name = found.group(1)
        hint = f"set it with export {name}=..., or give a default: ${{oc.env:{name},null}}"
        return Problem(key, f"the environment variable {name} is not set", given, hint)
    if found := re.search(r"Interpolation key '([^']*)' not found", complaint):
        return Problem(key, f"the config has no {found.group(1)}", given)
    if found := re.search(r"CalcError raised while resolving interpolation: (.*)", complaint):
        return Problem(key, found.group(1), given)
    if found := re.search(r"Unsupported interpolation type (\S+)", complaint):
        name, hint = found.group(1), "use oc.env for environment variables, calc for arithmetic"
        return Problem(key, f"there is no resolver {name}", given, did_you_mean(name, ("calc", "oc.env")) or hint)
    if found := re.search(r"node `([^`]+)` is not a container", complaint):
        return Problem(key, f"refers to a key of {found.group(1)}, which is not a mapping", given)
    if "recursi" in complaint.lower():
        return Problem(key, _CIRCLE, given)
    if "MissingMandatoryValue" in complaint or "missing node" in complaint:
        return Problem(key, "refers to a value that is not set (???)", given)
    return Problem(key, f"this interpolation cannot be resolved: {complaint}", given)


def _suggest(problem: Problem, keys: list[str]) -> Problem:
    """Return the problem with the key nearest to the missing one as its hint."""
    found = re.fullmatch(r"the config has no (\S+)", problem.message)
    if not found:
        return problem
    whole = [key.partition("[")[0] for key in keys]
    above = [key.rpartition(".")[0] for key in whole]
    close = nearest(found.group(1), {*whole, *above}, count=1)
    hint = f"did you mean ${{{close[0]}}}?" if close else f"set {found.group(1)}=... or {problem.key}=..."
    return replace(problem, hint=hint)

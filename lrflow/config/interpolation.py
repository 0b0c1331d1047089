"""Resolves a composed config into plain values, and gathers everything in it that leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.errors import Problem, nearest

_DEEPEST = 40
_CIRCLE = "the interpolations here lead round in a circle"


def resolve(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """The config as plain containers; what cannot be resolved is left out of them and told.

    Args:
        config: a composed config, with interpolations.

    Returns:
        the values, and a problem for every `???` and every interpolation to nothing.
    """
    problems: list[Problem] = []
    content = _walk(config, "", problems)
    keys = [key for key, _ in leaves(content)]
    return content, [_suggest(problem, keys) for problem in problems]


def settle(config: DictConfig) -> None:
    """Fills in, in place, what only Hydra and the clock can tell, so that the config means the same when read again."""
    for key, value in leaves(OmegaConf.to_container(config, resolve=False)):
        if isinstance(value, str) and re.search(r"\$\{\s*(hydra|now)\s*:", value):
            OmegaConf.update(config, key, OmegaConf.select(config, key), force_add=True)


def leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, with its dotted key."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from leaves(value, f"{key}[{index}]")
    else:
        yield key, content


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
            problems.append(_problem(path, _unresolved(node, name), str(error).partition("\n")[0]))
            continue
        if isinstance(value, DictConfig | ListConfig):
            if depth == _DEEPEST:  # of a mapping that holds an interpolation to itself
                problems.append(Problem(path.partition(".")[0], _CIRCLE))
                continue
            value = _walk(value, path, problems, depth + 1)
        values[name] = value
    return values if mapping else list(values.values())


def _unresolved(node: DictConfig | ListConfig, name: Any) -> Any:
    container: Any = OmegaConf.to_container(node, resolve=False)
    return container[name]


def _problem(key: str, given: Any, complaint: str) -> Problem:
    """What OmegaConf's complaint about an interpolation means."""
    if found := re.search(r"Environment variable '([^']*)' not found", complaint):
        name = found.group(1)
        hint = f"export {name}=..., or give a default: ${{oc.env:{name},null}}"
        return Problem(key, f"the environment variable {name} is not set", given, hint)
    if found := re.search(r"Interpolation key '([^']*)' not found", complaint):
        return Problem(key, f"the config has no {found.group(1)}", given)
    if found := re.search(r"Unsupported interpolation type (\S+)", complaint):
        return Problem(key, f"there is no resolver {found.group(1)}", given, "the resolver for variables is oc.env")
    if "recursi" in complaint.lower():
        return Problem(key, _CIRCLE, given)
    if "MissingMandatoryValue" in complaint or "missing node" in complaint:
        return Problem(key, "leads to a value that is yet to be given (???)", given)
    return Problem(key, f"this interpolation cannot be resolved: {complaint}", given)


def _suggest(problem: Problem, keys: list[str]) -> Problem:
    """Names the key nearest to one that an interpolation looked for."""
    found = re.fullmatch(r"the config has no (\S+)", problem.message)
    if not found:
        return problem
    whole = [key.partition("[")[0] for key in keys]
    above = [key.rpartition(".")[0] for key in whole]
    close = nearest(found.group(1), {*whole, *above}, count=1)
    hint = f"did you mean ${{{close[0]}}}?" if close else f"give {found.group(1)}=..., or {problem.key}=..."
    return replace(problem, hint=hint)

"""Resolves a composed config into plain values, and gathers everything in it that leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from lrflow.errors import Problem, nearest

_DEPTH = 40


def resolve(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """The config as plain containers; what cannot be resolved is left out of them and told.

    Args:
        config: a composed config, with interpolations.

    Returns:
        the values, and a problem for every `???` and every interpolation to nothing.
    """
    problems: list[Problem] = []
    content = _walk(config, "", problems, 0)
    keys = [key for key, _ in leaves(content)]
    return content, [_with_hint(problem, keys) for problem in problems]


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


def _walk(node: DictConfig | ListConfig, key: str, problems: list[Problem], depth: int) -> Any:
    if depth > _DEPTH:
        problems.append(Problem(key, "the interpolations here lead round in a circle"))
        return {}
    mapping = isinstance(node, DictConfig)
    names = list(node.keys()) if mapping else list(range(len(node)))
    values: dict[Any, Any] = {}
    for name in names:
        path = f"{key}[{name}]" if not mapping else f"{key}.{name}" if key else str(name)
        if OmegaConf.is_missing(node, name):
            problems.append(Problem(path, "must be given a value", "???"))
            continue
        try:
            value = node[name]
        except (OmegaConfBaseException, RecursionError) as error:
            problems.append(_problem(path, _raw(node, name), error))
            continue
        if isinstance(value, DictConfig | ListConfig):
            before = len(problems)
            value = _walk(value, path, problems, depth + 1)
            if depth + 1 > _DEPTH or (depth == 0 and _circles(problems[before:])):
                del problems[before + 1 :]  # one way round tells it all
        values[name] = value
    return values if mapping else list(values.values())


def _circles(problems: list[Problem]) -> bool:
    return any("circle" in problem.message for problem in problems)


def _raw(node: DictConfig | ListConfig, name: Any) -> Any:
    """The text of an interpolation, unresolved."""
    container = OmegaConf.to_container(node, resolve=False)
    return container[name] if isinstance(container, dict | list) else None  # type: ignore[index, call-overload]


def _problem(key: str, raw: Any, error: Exception) -> Problem:
    text = str(error).splitlines()[0] if str(error) else ""
    if found := re.search(r"Environment variable '([^']*)' not found", text):
        name = found.group(1)
        return Problem(key, f"the environment variable {name} is not set", raw, f"export {name}=..., or give a default: ${{oc.env:{name},null}}")
    if found := re.search(r"Interpolation key '([^']*)' not found", text):
        return Problem(key, f"the config has no {found.group(1)}", raw)
    if "Recursive" in text or isinstance(error, RecursionError):
        return Problem(key, "the interpolations here lead round in a circle", raw)
    if found := re.search(r"Unsupported interpolation type (\S+)", text):
        return Problem(key, f"there is no resolver {found.group(1)}", raw, "known: oc.env, oc.decode, oc.select, now, hydra")
    if "MissingMandatoryValue" in type(error).__name__ or "missing" in text.lower():
        return Problem(key, "leads to a value that must still be given (???)", raw)
    kind = "this interpolation cannot be resolved" if not isinstance(error, InterpolationKeyError) else "leads nowhere"
    return Problem(key, f"{kind}: {text}", raw)


def _with_hint(problem: Problem, keys: list[str]) -> Problem:
    """Names the nearest key to one that an interpolation looked for."""
    found = re.fullmatch(r"the config has no (\S+)", problem.message)
    if not found or problem.hint:
        return problem
    parents = {key.rpartition(".")[0] for key in keys if "." in key}
    close = nearest(found.group(1), [*keys, *parents], count=1)
    return Problem(problem.key, problem.message, problem.value, f"is {close[0]} meant?" if close else None)

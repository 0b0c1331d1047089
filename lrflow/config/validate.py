"""From a composed config to a typed one, or to every problem that it has."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lrflow.config.checks import check
from lrflow.config.config import Config
from lrflow.config.interpolation import resolve
from lrflow.config.secrets import find_secrets
from lrflow.config.spelling import unknown_key
from lrflow.errors import ConfigError, Problem, did_you_mean

META = "lrflow"
"""Key under which a saved config holds what it was composed of."""


def validate(
    cfg: DictConfig,
    choices: Mapping[str, str | None] | None = None,
    overrides: Iterable[str] | None = None,
    run_folder: Path | None = None,
) -> Config:
    """Checks a whole config.

    Args:
        cfg: composed from the groups, interpolations unresolved; or one that was saved.
        choices: the option taken of each group; None: those that a saved config names.
        overrides: the command line's; None: those that a saved config names.
        run_folder: the folder that a sweep gives to this job.

    Raises:
        ConfigError: every problem of the config.
    """
    source = OmegaConf.masked_copy(cfg, [key for key in cfg if key not in ("hydra", META)])
    meta = OmegaConf.to_container(cfg[META]) if META in cfg else {}
    assert isinstance(meta, dict)
    content, problems = resolve(source)
    problems += find_secrets(OmegaConf.to_container(source))
    config, wrong = _typed(content, {problem.key for problem in problems})
    problems += wrong
    problems += check(content, config, {problem.key for problem in problems})
    if problems or config is None:
        raise ConfigError(_unique(problems))
    return config.attach(
        source=source,
        choices=meta.get("choices", {}) if choices is None else choices,
        overrides=meta.get("overrides", []) if overrides is None else list(overrides),
        run_folder=run_folder,
    )


def _typed(content: dict[str, Any], failed: set[str]) -> tuple[Config | None, list[Problem]]:
    """The typed config and what the schemas say against it; keys that failed before are not told again.

    A config with problems is repaired with defaults, so that everything else about it can still be checked; None where
    that cannot be done.
    """
    try:
        return Config.model_validate(content), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = [problem for entry in details if not touches((problem := _told(entry, content)).key, failed)]
    sound = copy.deepcopy(content)
    for entry in details:
        _drop(sound, [part for part in entry["loc"] if not str(part).startswith("<")])
    try:
        return Config.model_validate(sound), problems
    except ValidationError:
        return None, problems


def _drop(content: Any, location: list[int | str]) -> None:
    """Takes the value at a location out of nested containers, if it is there."""
    *above, last = location
    for part in above:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(content, dict):
        content.pop(last, None)


def touches(key: str, others: Iterable[str]) -> bool:
    """Whether a key is one of the others, or stands above or below one."""
    return any(_covers(key, other) or _covers(other, key) for other in others)


def _covers(key: str, other: str) -> bool:
    return other == key or other.startswith((f"{key}.", f"{key}["))


def _unique(problems: list[Problem]) -> list[Problem]:
    """Each key once, the first that was said of it, in the order in which they were found."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.key, problem)
    return list(first.values())


def dotted(location: Iterable[str | int]) -> str:
    """A pydantic location as it is typed on the command line; tags of unions (`<rules>`) are no part of it."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif not part.startswith("<"):
            key += f".{part}" if key else part
    return key


def _told(details: ErrorDetails, content: dict[str, Any]) -> Problem:
    key, value, kind, context = dotted(details["loc"]), details["input"], details["type"], details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return unknown_key(key, value, content)
        case "missing":
            return _missing(key)
        case "option":
            return Problem(key, details["msg"], value, _close(value, context["options"]))
        case "expected":
            return Problem(key, details["msg"], value)
        case "union_tag_invalid":
            known = [tag.strip("'<>") for tag in str(context["expected_tags"]).split(", ")]
            return Problem(f"{key}.name", "no such task", value.get("name") if isinstance(value, Mapping) else value, did_you_mean(str(value.get("name")), known) if isinstance(value, Mapping) else None)
        case "model_type" | "model_attributes_type" | "dict_type":
            return Problem(key, "expected a mapping of keys and values", value)
        case "list_type":
            return Problem(key, "expected a list", value)
        case "too_short":
            return Problem(key, "expected at least one entry", value)
    return Problem(key, details["msg"][:1].lower() + details["msg"][1:], value)


def _missing(key: str) -> Problem:
    group, _, name = key.rpartition(".")
    if name == "_target_":
        hint = "the dotted name of the class or function to build, such as torch.optim.AdamW"
        return Problem(key, "is missing", ..., hint)
    if not group and name in Config.groups:
        return Problem(key, "the config has no such group", ..., f"choose an option: {name}=...")
    return Problem(key, "is missing")


def _close(value: Any, options: list[str]) -> str | None:
    hint = did_you_mean(str(value), options)
    return hint if hint and hint.startswith("did you mean") else None

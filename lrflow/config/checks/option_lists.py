"""Checks of the files of a user's own options: the form of a file and of its list of defaults, which Hydra asserts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrflow.config.composition.options import Catalogue, home
from lrflow.config.failures import one_line
from lrflow.config.origins import READ_ERRORS, line_of, read_yaml, short_path, yaml_problem
from lrflow.errors import Problem

_PARTS = ("launcher", "sweeper")
_FORMS = "- optimizer: sgd, - override /optimizer: sgd, - _self_"


def check_own_options(catalogue: Catalogue) -> list[Problem]:
    """Return a problem for each of a user's own options whose form Hydra (1.3) cannot take.

    Args:
        catalogue: groups and their options.
    """
    shipped = (home("conf"), home("recipes"))
    own = [option.path for option in catalogue.every() if not any(map(option.path.is_relative_to, shipped))]
    return [problem for path in own for problem in _check(path)]


def _check(path: Path) -> Iterator[Problem]:
    try:
        content = read_yaml(path)
    except (*READ_ERRORS, ValueError) as error:  # libyaml is stricter than the reader of OmegaConf
        problem = yaml_problem(error) or Problem("config", f"cannot be read: {one_line(error)}")
        yield replace(problem, where=short_path(path))
        return
    if content is not None and not isinstance(content, dict):
        yield Problem("config", "expected a mapping of keys to values", content, where=short_path(path))
        return
    if header := next(_wrong_headers(path), None):
        yield header
        return
    section = (content or {}).get("hydra", {})
    below = section if isinstance(section, dict) else {}
    parts = {"hydra": section, **{f"hydra.{key}": below[key] for key in _PARTS if key in below}}
    for key, part in parts.items():
        if not isinstance(part, dict):
            where = f"{short_path(path)}:{line_of(key, path) or 1}"
            yield Problem(key, "expected a mapping of settings", part, where=where)
            return
    defaults = (content or {}).get("defaults", [])
    where = f"{short_path(path)}:{line_of('defaults', path) or 1}"
    if not isinstance(defaults, list):
        yield Problem("defaults", "expected a list", defaults, f"such as {_FORMS}", where)
        return
    for index, item in enumerate(defaults):
        if not _is_default(item):
            yield Problem(f"defaults[{index}]", "expected a group and its option", item, f"such as {_FORMS}", where)


def _wrong_headers(path: Path) -> Iterator[Problem]:
    """Yield a problem for each line such as `# @package` that does not hold one key and one value."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not re.match(r"\s*#\s*@", line):
            if line.strip():
                return
        elif len([word for word in line.strip().lstrip("#").strip().split(" ") if word]) != 2:
            message = "expected a key and its value in a line of the header"
            where = f"{short_path(path)}:{number}"
            yield Problem(line.strip(), message, hint="such as # @package _global_", where=where)


def _is_default(item: Any) -> bool:
    if isinstance(item, dict):
        values = list(item.values())
        options = values[0] if values and isinstance(values[0], list) else values
        texts = all(isinstance(option, str) or (option is None and options is values) for option in options)
        return len(item) == 1 and _is_name(next(iter(item))) and texts
    return _is_name(item)


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip()) and text.count("@") <= 1

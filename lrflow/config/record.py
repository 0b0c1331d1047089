"""Checks the record in a saved config of what it was composed of, which may have been cut or edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrflow.config.origins import short_path
from lrflow.config.validation import META
from lrflow.errors import Problem

_Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _mapping(holds: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(_is_text(name) and holds(value[name]) for name in value)


_RECORDED: dict[str, tuple[_Check, str]] = {
    "choices": (_mapping(lambda option: option is None or _is_text(option)), "a mapping of groups to their options"),
    "overrides": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of texts"),
    "metrics": (_mapping(lambda mode: mode in ("min", "max")), "a mapping of metrics to min or max"),
    "run_folder": (_is_text, "the path of a folder"),
}
"""By entry: a check of its value, and the words for valid values; each entry may be absent or null."""


def record_problems(content: Mapping[str, Any], path: Path) -> list[Problem]:
    """Return a problem for each entry of the record that lrflow cannot have written.

    Args:
        content: of a saved config, as plain data.
        path: its file.
    """
    record = content.get(META) or {}
    checks = _RECORDED if isinstance(record, dict) else {}
    wrong = {
        f"{META}.{name}": (record[name], words)
        for name, (holds, words) in checks.items()
        if record.get(name) is not None and not holds(record[name])
    }
    if not isinstance(record, dict):
        wrong = {META: (record, "a mapping")}
    hint = f"lrflow wrote it when the run started; was {path.name} edited?"
    return [Problem(key, f"expected {words}", value, hint, short_path(path)) for key, (value, words) in wrong.items()]

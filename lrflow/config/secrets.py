"""Secrets: refused where they stand in the clear, and taken out of everything that is written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from lrflow.config.interpolation import leaves
from lrflow.errors import Problem

MASK = "***"

_WORDS = "api_?key|access_?key|private_?key|token|secret|passw(or)?d|credentials?"
_KEY = re.compile(rf"(^|[_.-])({_WORDS})$", re.IGNORECASE)
_VOCABULARY = re.compile(r"(^|_)(pad|eos|bos|unk|sep|cls|mask|special)_token$", re.IGNORECASE)
_VARIABLE = re.compile(rf"(^|_)({_WORDS})(_|$)", re.IGNORECASE)
_SHORTEST = 8
_IN_URL = re.compile(r"(://[^:/@\s]*:)[^@\s]+(?=@)")


def is_secret_name(key: str) -> bool:
    """Whether a key (its last part) is named like something that must not be shown."""
    name = key.rpartition(".")[2]
    return bool(_KEY.search(name)) and not _VOCABULARY.search(name)


def secret_values() -> dict[str, str]:
    """The values of environment variables that are named like secrets, by variable; short ones prove nothing."""
    return {name: value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= _SHORTEST}


def find_secrets(content: Any) -> list[Problem]:
    """Every secret that stands in the clear in an unresolved config; the problems don't show it."""
    secrets = secret_values()
    return [problem for key, value in leaves(content) if (problem := secret_problem(key, value, secrets))]


def find_told_secrets(content: Mapping[str, Any]) -> list[Problem]:
    """Every secret that an interpolation would put on a dashboard or into the name of a folder.

    Args:
        content: the resolved config; what a model or data module is handed is its own affair.
    """
    secrets = secret_values()
    told = {key: content.get(key) for key in ("name", "output", "logger")}
    return [
        Problem(key, f"would show the value of the environment variable {name} to everyone who sees the run", MASK)
        for key, value in leaves(told)
        for name, secret in secrets.items()
        if isinstance(value, str) and secret in value
    ]


def secret_problem(key: str, value: Any, secrets: Mapping[str, str] | None = None) -> Problem | None:
    """The problem of one value: under a secret's name, or holding the value of a secret environment variable.

    Args:
        key: of the value.
        value: as the config gives it.
        secrets: what `secret_values` returns; None: it is called.
    """
    if not isinstance(value, str):
        return None
    for name, secret in (secret_values() if secrets is None else secrets).items():
        if secret in value:
            message = f"holds the value of the environment variable {name} in the clear"
            return Problem(key, message, MASK, f"write {key}=${{oc.env:{name}}} (in quotes on a command line)")
    if value and is_secret_name(key) and not value.startswith("${") and value != MASK:
        hint = f"put it into an environment variable and write {key}=${{oc.env:NAME}} (in quotes on a command line)"
        return Problem(key, "a secret stands here in the clear, where logs and saved configs would show it", MASK, hint)
    return None


def redact(container: Any) -> Any:
    """A copy of plain containers without secrets: not under their names, nor wherever their values stand."""
    return _redact(container, secret_values())


def redact_text(text: str) -> str:
    """Text without the values of secret environment variables and the passwords in URLs."""
    for secret in secret_values().values():
        text = text.replace(secret, MASK)
    return without_password(text)


def without_password(text: str) -> str:
    """Text without the passwords of URLs such as `postgresql://user:password@host/name`."""
    return _IN_URL.sub(rf"\1{MASK}", text)


def _redact(value: Any, secrets: Mapping[str, str], name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _redact(item, secrets, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redact(item, secrets, name) for item in value)
    if not isinstance(value, str):
        return value
    if value and is_secret_name(name) and not value.startswith("${"):
        return MASK
    for secret in secrets.values():
        value = value.replace(secret, MASK)
    return without_password(value)

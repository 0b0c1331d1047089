"""Detection of secrets in a config, and their removal from everything that is printed or written."""

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
    """Return whether the last part of a key is a name for a secret."""
    name = key.rpartition(".")[2]
    return bool(_KEY.search(name)) and not _VOCABULARY.search(name)


def secret_values() -> dict[str, str]:
    """Return the values of environment variables with names of secrets, without short values, which match by chance."""
    return {name: value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= _SHORTEST}


def find_secrets(content: Any) -> list[Problem]:
    """Return a problem for each secret in plain text in an unresolved config; the problems mask it."""
    secrets = secret_values()
    return [problem for key, value in leaves(content) if (problem := secret_problem(key, value, secrets))]


def find_published_secrets(content: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each secret that an interpolation would show on a dashboard or in the name of a folder.

    Args:
        content: resolved config; arguments of models and data modules may hold secrets.
    """
    secrets = secret_values()
    public = {key: content.get(key) for key in ("name", "output", "logger")}
    return [
        Problem(key, f"would show the value of the environment variable {name} to everyone who sees the run", MASK)
        for key, value in leaves(public)
        for name, secret in secrets.items()
        if isinstance(value, str) and secret in value
    ]


def secret_problem(key: str, value: Any, secrets: Mapping[str, str] | None = None) -> Problem | None:
    """Return the problem of a value that is a secret by its key or contains a secret environment variable, or None.

    Args:
        key: config key of the value.
        value: value as the config gives it.
        secrets: result of `secret_values`; None calls it.
    """
    if not isinstance(value, str):
        return None
    for name, secret in (secret_values() if secrets is None else secrets).items():
        if secret in value:
            message = f"contains the value of the environment variable {name} in plain text"
            return Problem(key, message, MASK, f"write {key}=${{oc.env:{name}}} (in quotes on a command line)")
    if value and is_secret_name(key) and not value.startswith("${") and value != MASK:
        hint = f"put it into an environment variable and write {key}=${{oc.env:NAME}} (in quotes on a command line)"
        return Problem(key, "is a secret in plain text, which logs and saved configs would show", MASK, hint)
    return None


def redact(container: Any) -> Any:
    """Return a copy of plain containers with secrets masked, by key and by value."""
    return _redact(container, secret_values())


def redact_text(text: str) -> str:
    """Return text with the values of secret environment variables and passwords in URLs masked."""
    for secret in secret_values().values():
        text = text.replace(secret, MASK)
    return without_password(text)


def without_password(text: str) -> str:
    """Return text with the passwords in URLs such as `postgresql://user:password@host/name` masked."""
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

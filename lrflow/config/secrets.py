"""Secrets in a config: in plain text, shown on a dashboard, or missing from a saved config; the config without them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lrflow.config.composition.interpolation import leaves
from lrflow.errors import Problem
from lrflow.redaction import MASK, is_secret_name, redact, redactor, without_named, without_password

_DEFAULT = re.compile(r"\$\{\s*oc\.env\s*:[^,{}]*,\s*([^{}]*?)\s*\}")


def find_secrets(content: Any) -> list[Problem]:
    """Return a problem for each secret in plain text in an unresolved config; the problems mask it."""
    return [problem for key, value in leaves(content) if (problem := secret_problem(key, value))]


def find_published_secrets(content: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each secret that an interpolation would show on a dashboard or in the name of a folder.

    Args:
        content: resolved config; arguments of models and data modules may hold secrets.
    """
    public = {key: content.get(key) for key in ("name", "output", "hydra")}
    public["logger"] = _published(content.get("logger"))
    layers = content.get("layers")
    names = [place for place in leaves(layers, "layers") if place[0].endswith("].name")]  # of groups, everywhere
    return [
        Problem(key, f"would show the value of {secret.source} to everyone who sees the run", MASK)
        for key, value in (*leaves(public), *names)
        if isinstance(value, str) and (secret := redactor.found_in(value))
    ]


def _published(loggers: Any) -> Any:
    """Return what dashboards show of the settings of loggers; an address and the arguments of a node are not shown."""
    if not isinstance(loggers, Mapping):
        return loggers
    shown = {name: one for name, one in loggers.items() if not (isinstance(one, Mapping) and "_target_" in one)}
    if isinstance(of_mlflow := shown.get("mlflow"), Mapping):
        shown["mlflow"] = {key: value for key, value in of_mlflow.items() if key != "tracking_uri"}
    return shown


def shown_config(resolved: Mapping[str, Any], written: Any) -> dict[str, Any]:
    """Return a resolved config for dashboards, with secrets masked.

    What is read from the environment stays the name of the variable.

    Args:
        resolved: the values of the config.
        written: the same with unresolved interpolations.
    """
    shown: dict[str, Any] = redact(_without_environment(resolved, written))
    return shown


def _without_environment(value: Any, written: Any) -> Any:
    """Return a resolved value, or its text in the config wherever that reads the environment."""
    if isinstance(written, str) and "oc.env" in written:
        return written
    if isinstance(value, Mapping):
        below = written if isinstance(written, Mapping) else {}
        return {key: _without_environment(item, below.get(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = written if isinstance(written, list) and len(written) == len(value) else [None] * len(value)
        return [_without_environment(*pair) for pair in zip(value, items, strict=True)]
    return value


def find_masked(content: Any) -> list[Problem]:
    """Return a problem for each value of an unresolved config that was saved without its secret."""
    return [
        Problem(key, "was saved without its secret", value, f"give it again: {key}=${{oc.env:NAME}} (in quotes)")
        for key, value in leaves(content)
        if isinstance(value, str) and (value == MASK or f":{MASK}@" in value)
    ]


def secret_problem(key: str, value: Any) -> Problem | None:
    """Return the problem of a value that is a secret by its key or contains one that is known, or None.

    Args:
        key: config key of the value.
        value: value as the config gives it.
    """
    if (secret := redactor.found_in(key)) and secret.is_distinctive:
        return Problem(key, f"contains the value of {secret.source}", ...)
    if not isinstance(value, str) or value in ("", MASK):
        return None
    if secret := redactor.found_in(value):
        hint = f"write {key}=${{oc.env:{secret.variable or 'NAME'}}} (in quotes on a command line)"
        if is_secret_name(key, value) or secret.variable:
            return Problem(key, f"contains the value of {secret.source} in plain text", MASK, hint)
    hint = f"put it into an environment variable and write {key}=${{oc.env:NAME}} (in quotes on a command line)"
    if is_secret_name(key, value) and any(_typed_parts(value)):
        return Problem(key, "is a secret in plain text, which logs and saved configs would show", MASK, hint)
    if without_password(value) != value:
        return Problem(key, "contains a password in plain text", without_password(value), hint)
    if secret or without_named(value) != value:
        return Problem(key, "contains a secret in plain text", MASK, hint)
    return None


def _typed_parts(value: str) -> Iterator[str]:
    """Yield what of a value stands in plain text: all of it, or the defaults of its interpolations of `oc.env`."""
    if "${" not in value:
        yield value
    yield from (text for text in _DEFAULT.findall(value) if text.strip("'\"") not in ("", "null", MASK))

"""Problems of errors that Hydra, OmegaConf and the YAML parser raise when a config is composed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from lrflow.config.checks.hydra_section import nearest_setting
from lrflow.config.composition.arithmetic import EXPECTED
from lrflow.config.composition.interpolation import DEEPEST, leaves
from lrflow.config.composition.options import Catalogue
from lrflow.config.composition.overrides import Override
from lrflow.config.diagnostics import closest
from lrflow.config.failures import system_message
from lrflow.config.origins import line_of, line_with, read_yaml, short_path, yaml_problem
from lrflow.config.packages import LAUNCHERS, missing_package
from lrflow.errors import Problem, did_you_mean

_TRIED = 40  # overrides that are left out, one at a time, to find the wrong one


def composition_problem(
    error: Exception,
    catalogue: Catalogue,
    overrides: Sequence[Override],
    compose: Callable[[Sequence[Override]], Any],
) -> Problem:
    """Translate an error of Hydra, OmegaConf or the YAML parser into a problem, with the key as it was typed.

    Args:
        error: error of a composition.
        catalogue: groups and their options.
        overrides: overrides of the composition.
        compose: composes other overrides.
    """
    if problem := yaml_problem(error):
        return problem
    if isinstance(error, RecursionError):
        return Problem("config", f"is nested more than {DEEPEST} levels deep, or refers to itself")
    if isinstance(error, UnicodeDecodeError):
        return Problem("config", f"a file is not text in UTF-8: {error}")
    if isinstance(error, OSError) and not isinstance(error, MissingConfigException):
        return Problem("config", system_message(error).partition("\n")[0])
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and option in LAUNCHERS:
            return missing_package(LAUNCHERS[option], group, option)
        options = list(error.options or catalogue.options(group))
        return Problem(group or "defaults", "there is no such option", option, did_you_mean(option, options))
    if "Overriding hydra.searchpath" in str(error):
        return Problem(
            "hydra.searchpath", "a file may not set it", hint="--config-dir gives a folder with more options"
        )
    if found := re.search(r"Could not override '(hydra[^']*)'", str(error)):
        ours = any(
            (override.key, override.given) == ("hydra/sweeper", "lrflow") or override.key == "sweep"
            for override in overrides
        )
        if ours and (hint := nearest_setting(found.group(1))):
            return Problem(found.group(1), "there is no such key", hint=hint)
        return Problem(found.group(1), "Hydra has no such key", hint="--cfg hydra prints all its keys")
    if found := re.search(r"In '([^']+)': Could not override '([^'@]+)", str(error)):
        return _no_such_group(found.group(1), found.group(2), catalogue)
    if found := re.search(r"In '([^']+)': \w+ raised while composing config", str(error)):
        return _of_file(error, found.group(1), catalogue, overrides, compose)
    if culprit := _culprit(error, overrides, compose):
        return _of_override(error, *culprit)
    return Problem("config", f"cannot be composed: {'; '.join(_reasons(error)[:2]) or type(error).__name__}")


def _reasons(error: BaseException) -> list[str]:
    """Return the lines of an error and of its cause that say what is wrong."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines()]
    skipped = ("To append", "full_key", "object_type", "reference_type", "Either", "Or add", "Error merging")
    return [line for line in lines if line and not line.startswith(skipped)]


_TYPES = {
    r"Cannot convert '\w+' to string": "expected text",
    r"is not a valid bool": "expected true or false",
    r"could not be converted to Integer": "expected a whole number",
    r"could not be converted to Float": "expected a number",
    r"is not a subclass of": "expected a mapping of keys to values",
    r"must be a string or a list": "expected the name of an option",
}
"""Messages of OmegaConf and Hydra about a value of another type, and what was expected."""


def _culprit(
    error: BaseException, overrides: Sequence[Override], compose: Callable[[Sequence[Override]], Any]
) -> tuple[Override, Any] | None:
    """Return the override without which a composition succeeds, and the result of that; None if there is none.

    Hydra names the override in some errors only. Values are tried before the choices of options, which have no sign.
    """
    named = re.search(r"Error merging override (.*)", str(error))
    first = sorted(overrides, key=lambda o: (not (named and o.text == named.group(1).strip()), not o.sign))
    for override in first[:_TRIED]:
        try:
            return override, compose([other for other in overrides if other is not override])
        except Exception:  # the other overrides are wrong too, or this one is right
            continue
    return None


def _of_override(error: BaseException, override: Override, rest: Any) -> Problem:
    """Return the problem of an override that cannot be applied to a config.

    Args:
        error: error of the composition.
        override: the override.
        rest: the composition without it.
    """
    key, reasons = override.key, " ".join(_reasons(error))
    value: Any = override.parsed.value()
    content: Any = OmegaConf.to_container(rest.content, resolve=False)
    if override.deletes and key in ("fast", "recipe"):
        return Problem(f"~{key}", "this group cannot be left out", hint="remove this word")
    if override.deletes and "does not exist" in reasons:
        known = [name for name, _ in leaves(content)]
        if key in known:
            return Problem(key, "is null, so there is nothing to delete", hint="leave it out")
        return Problem(key, "there is no such key to delete", hint=did_you_mean(key, known))
    if override.deletes and (found := re.search(r"is (.*) and not ", reasons)):
        return Problem(key, f"is {found.group(1)}, and only this value can be deleted", value, f"~{key} deletes any")
    if "@" in key:
        group = key.partition("@")[0]
        message = "a group has one option only, at its own place"
        return Problem(key, message, override.given, f"{group}={override.given}")
    node, above = content, ""
    for part in key.split("."):
        if isinstance(node, list) and not part.isdigit():
            message = f"{above} is a list, whose entries have the numbers 0 to {max(len(node) - 1, 0)}"
            return Problem(key, message, value, f"write the whole list: {above}=[...]")
        node = node.get(part) if isinstance(node, dict) else None
        above = f"{above}.{part}" if above else part
    if "BRACE_CLOSE" in reasons and "${calc:" in str(value).replace(" ", ""):
        return Problem(key, f"is no arithmetic: {EXPECTED}, between braces", value)
    if (expected := _expected(node, value)) is None:
        expected = next((text for pattern, text in _TYPES.items() if re.search(pattern, reasons)), None)
    return Problem(key, expected or f"cannot be set: {reasons}", value)


def _expected(before: Any, value: Any) -> str | None:
    """Return what a value should be that cannot be merged into the one before; None if both are of one kind."""
    if isinstance(before, dict) and not isinstance(value, dict):
        return "expected a mapping of keys to values"
    if isinstance(before, list) and not isinstance(value, list):
        return "expected a list"
    return None


def _of_file(
    error: BaseException,
    name: str,
    catalogue: Catalogue,
    overrides: Sequence[Override],
    compose: Callable[[Sequence[Override]], Any],
) -> Problem:
    """Return the problem of a file that cannot be merged with those before it, such as `recipe/mine`."""
    group, _, stem = name.rpartition("/")
    option, reasons = catalogue.options(group).get(stem), _reasons(error)[1:] or _reasons(error)
    try:
        rest = compose([override for override in overrides if override.key != group])
        content: Any = read_yaml(option.path) if option else None
    except Exception:  # the file is not the only problem, or cannot be read again
        rest = content = None
    package = "" if group == "recipe" else group
    place = short_path(option.path) if option else name
    if rest is None or not isinstance(content, dict) or option is None:
        return Problem(package or "config", f"cannot be merged: {'; '.join(reasons)}", where=place)
    before: Any = OmegaConf.to_container(rest.content, resolve=False)
    before = before.get(package) if package else before
    key, value, message = _first_mismatch(before, content, "") or ("", ..., f"cannot be merged: {'; '.join(reasons)}")
    if found := re.search(r"Key '(\w+)' not in '(\w+)'", " ".join(reasons)):
        key = next((known for known, _ in leaves(content) if known.rpartition(".")[2] == found.group(1)), key)
        key, value, message = key, ..., "there is no such key"
    line = line_of(key, option.path, nearest=True) or 1
    return Problem(".".join(filter(None, [package, key])) or "config", message, value, where=f"{place}:{line}")


def _first_mismatch(before: Any, content: Any, key: str) -> tuple[str, Any, str] | None:
    """Return key and value of the first entry of another kind than the one before, and what was expected."""
    if content is not None and (expected := _expected(before, content)):
        return key, content, expected
    if isinstance(before, dict) and isinstance(content, dict):
        for name, value in content.items():
            found = _first_mismatch(before.get(name), value, f"{key}.{name}" if key else str(name))
            if found and name in before:
                return found
    return None


def _no_such_group(config: str, group: str, catalogue: Catalogue) -> Problem:
    """Return the problem of a recipe or option, such as `recipe/mine`, that overrides a group it cannot override."""
    folder, _, stem = config.rpartition("/")
    option = catalogue.options(folder).get(stem)
    if folder == "recipe" and option and line_with(r"#\s*@package\s+_global_\b", option.path) is None:
        hint = "start the recipe with the line # @package _global_"
        return Problem(
            folder, "has other groups, and is not at the root of the config", stem, hint, f"{short_path(option.path)}:1"
        )
    name = group.rpartition("/")[2]  # Hydra searches a group without a leading slash below the group of the file
    meant = closest(name, catalogue.groups)
    if group in catalogue.groups:
        message, hint = "this group has no option to override yet", f"write /{group} without override"
    else:
        message = "there is no such group to override"
        hint = f"did you mean override /{meant}?" if meant else f"the groups are {', '.join(catalogue.groups)}"
    line = line_with(rf"\boverride\s+\S*{re.escape(name)}\b", option.path) if option else None
    return Problem(name, message, hint=hint, where=f"{short_path(option.path)}:{line}" if option and line else config)

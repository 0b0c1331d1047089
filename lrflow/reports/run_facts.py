"""What a run was: the command that makes it again, what it sets itself, and its environment."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from lrflow.config import load_config
from lrflow.config.composition.arithmetic import with_quotes_for_hydra
from lrflow.config.composition.options import ACROSS_GROUPS
from lrflow.config.composition.overrides import Override
from lrflow.config.differences import OwnSettings
from lrflow.errors import LrflowError
from lrflow.redaction import redact, redact_text
from lrflow.reports.runs import Run, leaves, written
from lrflow.runs import RunFolder

Row = tuple[str, str, str]
"""A key of the config or a group, its value or option, and its default."""

_FLAGS = ("-cd", "--config-dir")
_NOT_AGAIN = ("resume", "trial")
_ENVIRONMENT = ("started", "host", "platform", "cores", "device", "devices", "precision", "python")


def command_again(run: Run) -> str:
    """Return the command that makes a run again, as it is typed in a shell.

    It starts a resumed run from its beginning, and a trial of a sweep as a run of its own.
    """
    overrides = [Override.read(text) for text in run.overrides]
    kept = [one for one in overrides if not one.of_hydra and one.key.partition(".")[0] not in _NOT_AGAIN]
    return shlex.join(map(redact_text, ["python", "-m", "lrflow", *_flags(run), *map(_as_typed, kept)]))


def _as_typed(override: Override) -> str:
    """Return an override as the user types it, without the quotes that `${calc:...}` gets for Hydra."""
    if "${calc:" in override.given and with_quotes_for_hydra(override.plain) == override.value:
        return f"{override.sign}{override.key}={override.plain}".removeprefix("++")
    return override.typed


def _flags(run: Run) -> Iterator[str]:
    """Yield the folder of further options and the trusted packages of the command that made a run."""
    given = run.environment.get("command")
    command = [*map(str, given)] if isinstance(given, list) else []
    for word, after in pairwise([*command, ""]):
        if word.partition("=")[0] in _FLAGS:
            yield from [word] if "=" in word else [word, after]
        elif word.startswith("trust="):
            yield word


def own_settings(run: Run) -> list[Row]:
    """Return what a run sets itself: recipe, options, and values that differ from those of its options.

    Raises:
        LrflowError: the config of the run cannot be read any more.
    """
    try:
        own = OwnSettings.of(load_config(RunFolder(run.folder).config))
    except LrflowError:
        raise
    except Exception as error:  # the config of another version, of which Hydra and OmegaConf raise many types
        raise LrflowError(f"{type(error).__name__}: {error}") from error
    chosen = {group: run.config.get(group) for group in (*ACROSS_GROUPS, *own.options)}
    usual = {group: own.usual.get(group) for group in chosen}
    rows = [
        (group, written(option), written(usual[group])) for group, option in chosen.items() if option != usual[group]
    ]
    defaults = dict(leaves(own.defaults))
    return rows + [
        (key, written(value), written(defaults.get(key))) for key, value in leaves(redact(own.values)) if key != "name"
    ]


def environment(run: Run) -> list[tuple[str, str]]:
    """Return where and with what a run was made, as names and values; without what is unknown."""
    found = run.environment
    rows = [(name, written(found[name])) for name in _ENVIRONMENT if found.get(name) is not None]
    if commit := git_of(run).get("commit"):
        branch = f", branch {git_of(run)['branch']}" if git_of(run).get("branch") else ""
        changed = ", with changes that are not committed" if git_of(run).get("changed") else ""
        rows.append(("commit", f"{commit}{branch}{changed}"))
    if versions := ", ".join(f"{name} {version}" for name, version in run.versions.items() if version):
        rows.append(("packages", versions))
    return rows


def git_of(run: Run) -> Mapping[str, Any]:
    """Return what a run recorded of its code's repository; empty: nothing."""
    found = run.environment.get("git")
    return found if isinstance(found, Mapping) else {}

"""Overrides whose value is a path or a name: read as they are typed, and written so that a shell reads them back."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from lrflow.config.composition.arithmetic import with_quotes_for_hydra
from lrflow.config.composition.grammar import quoted
from lrflow.config.composition.overrides import Override
from lrflow.errors import ConfigError, Problem
from lrflow.limits import FROM
from lrflow.remote import check_url, download, is_url, local_path

PATHS = (
    "output", "resume.from", "task.from", "scaling.from", "task.inputs",
    "against", "model.init_from", "hydra.sweeper.resume",
    "hydra.run.dir", "hydra.sweep.dir", "data.root", "data.file", "data.shards", "data.val_shards", "data.test_shards",
)  # fmt: skip
"""Keys whose value is a path."""

NAMES = ("name",)
"""Keys whose value is a name; with `-m`, a comma separates several."""

_SHARDS = ("data.shards", "data.val_shards", "data.test_shards")
_SEVERAL = (
    "resume.from",
    "task.from",
    "scaling.from",
    "against",
    "model.init_from",
    "data.root",
    "data.file",
    *_SHARDS,
)

_LISTS = (*_SHARDS, "task.from")  # several runs are what a forecast is made from

_PLAIN = re.compile(r"[A-Za-z0-9_./@%+-]+( +[A-Za-z0-9_./@%+-]+)*")  # is the same text for Hydra


def literal_paths(overrides: Iterable[Override], sweep: bool = False) -> list[Override]:
    """Return the overrides with paths, names and arithmetic quoted for Hydra, whatever characters these have.

    A shell takes the quotes of `resume="my run, 2"` away, and Hydra would read two values. A text in quotes of its own
    and one with an interpolation are left to Hydra, unless there is a file of that very name.

    Args:
        overrides: overrides as typed, short forms expanded.
        sweep: whether a key may have several values (`-m`).
    """
    return [_literal(override, sweep) for override in overrides]


def _literal(override: Override, sweep: bool) -> Override:
    text = override.given
    if "${calc:" in text.replace(" ", ""):
        return dataclasses.replace(override, value=with_quotes_for_hydra(text))
    of_run = override.key == "optimizer.lr" and text.startswith(FROM) and not _PLAIN.fullmatch(text.removeprefix(FROM))
    if of_run and _exists(text.removeprefix(FROM)):
        return dataclasses.replace(override, value=quoted(text))
    if override.key not in (*PATHS, *NAMES) or not text.strip() or text == "null" or _PLAIN.fullmatch(text):
        return override
    if not _exists(text):
        is_quoted = len(text) > 1 and text[0] in "'\"" and text[-1] == text[0] and override.is_readable
        is_list = override.key in NAMES and sweep and override.is_swept
        # A path that does not exist is two values if it has a comma; no run can be resumed twice, but data are swept.
        is_several = override.key in _SEVERAL and override.is_swept
        is_list |= override.key in _LISTS and text.startswith("[") and override.is_readable
        if is_quoted or "${" in text or is_list or is_several:
            return override
    return dataclasses.replace(override, value=quoted(text))


_DOWNLOADED = ("resume.from", "task.from", "model.init_from", "against")


def with_local_copies(overrides: Iterable[Override], sweep: bool = False) -> list[Override]:
    """Return the overrides with addresses such as `s3://bucket/runs` replaced by the paths of their local copies.

    Runs that are resumed or evaluated are downloaded.

    Args:
        overrides: overrides as `literal_paths` returns them.
        sweep: whether they are those of a sweep (`-m`).

    Raises:
        ConfigError: an address cannot be used, or there is no run with it.
    """
    given = list(overrides)
    remote = [override for override in given if override.key in PATHS and is_url(override.plain)]
    problems = []
    for override in remote:
        key = override.short or override.key
        if override.key not in ("output", "hydra.sweep.dir", *_DOWNLOADED):
            problems.append(Problem(key, "only local files are read here", override.plain, "copy it here first"))
        elif sweep and override.key in _DOWNLOADED:
            message = "the jobs of a sweep read only local files"
            problems.append(Problem(key, message, override.plain, "copy it here first"))
        elif sweep or override.key == "hydra.sweep.dir":
            message = "a sweep locks its files and appends to them, which remote file systems cannot do"
            hint = "give a local folder, and copy it afterwards"
            problems.append(Problem(key, message, override.plain, hint))
    resumed = next((override for override in given if override.key == "resume.from"), None)
    if any(override.key == "output" for override in remote) and resumed and resumed.plain in ("last", "auto"):
        message = "looks for runs in local folders, and the output is remote"
        problems.append(Problem("resume", message, resumed.plain, "give the address of the run: resume=s3://.../RUN"))
    if problems:
        raise ConfigError(problems)
    return [_local_copy(override) if override in remote else override for override in given]


def _local_copy(override: Override) -> Override:
    url, key = override.plain, override.short or override.key
    if override.key == "output":
        check_url(url, key)
        path: object = local_path(url)
    else:
        path = download(url, key)
    return dataclasses.replace(override, value=quoted(path))


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def in_shell(key: str, value: object) -> str:
    """Return an override as it is typed in a shell."""
    text = str(value)
    return shlex.quote(f"{key}={text}" if _PLAIN.fullmatch(text) else f"{key}={quoted(text)}")


def how_to_resume(sweep: object) -> str:
    """Return how the sweep in a folder is resumed, with the command."""
    return f"resume with python -m lrflow -m {in_shell('sweep.resume', sweep)}"

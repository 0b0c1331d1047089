"""`sweep.yaml`: what a sweep was asked for, written before its first job, read when it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import lrflow
from lrflow.config.secrets import redact
from lrflow.config.sweep import Sweep
from lrflow.errors import ConfigError, Problem
from lrflow.files import write_whole
from lrflow.sweeps.reading import RECORD
from lrflow.sweeps.space import Space

_MAY_CHANGE = (
    "sampler",
    "n_trials",
    "seed",
    "retries",
    "rank_ended_early",
    "batch",
    "resume",
    "params",
    "when",
    "pruner",
    "pruning",
)
"""Settings that a sweep may go on with another value of; of the space, its axes are compared."""


def write_record(folder: Path, settings: Sweep, space: Space, overrides: Sequence[str], study: str) -> None:
    """Writes what a sweep is asked for.

    Args:
        folder: the sweep's.
        settings: the sweeper's.
        space: what it draws from.
        overrides: of the command line, Hydra's own ones too.
        study: the study's name.
    """
    content = {
        "version": lrflow.__version__,
        "study": study,
        "overrides": [text.removeprefix("++") for text in overrides],
        "space": space.describe(),
        "settings": {**settings.model_dump(exclude={"resume", "study"}), "study": study},
    }
    text = yaml.safe_dump(redact(content), sort_keys=False, allow_unicode=True, width=120)
    write_whole(folder / RECORD, f"# What this sweep was asked for; its trials lie beside it.\n{text}")


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_record` wrote.

    Raises:
        ConfigError: the folder is none of a sweep's, or its record is broken.
    """
    try:
        found = yaml.safe_load((folder / RECORD).read_text(encoding="utf-8"))
        if isinstance(found, dict) and {"overrides", "space", "settings", "study"} <= found.keys():
            return found
        message = f"{RECORD} there is not one of a sweep"
    except FileNotFoundError:
        message = f"expected a sweep folder of hydra/sweeper=lrflow, and there is no {RECORD}"
    except (OSError, yaml.YAMLError) as error:
        message = f"{RECORD} there cannot be read: {error}"
    raise ConfigError([Problem("sweep.resume", message, str(folder))])


def check_record(record: dict[str, Any], settings: Sweep, space: Space) -> None:
    """Refuses what a sweep cannot go on with.

    Raises:
        ConfigError: its space or its objective is another.
    """
    problems = [
        Problem(text.partition(":")[0], "is another search space than the sweep's", text.partition(": ")[2], hint)
        for text in space.describe()
        if text not in record["space"]
        for hint in ("a new space is a new sweep; what goes on takes its own",)
    ]
    now, before = settings.model_dump(), record["settings"]
    for key in set(now) - set(_MAY_CHANGE) - {"study"}:
        if now[key] != before.get(key) and "***" not in str(before.get(key)):
            problems.append(Problem(f"sweep.{key}", f"the sweep has {before.get(key)}, which stays", now[key]))
    if "grid" in (settings.sampler, before["sampler"]) and settings.sampler != before["sampler"]:
        problems.append(Problem("sweep.sampler", f"the sweep has {before['sampler']}, which stays", settings.sampler))
    if problems:
        raise ConfigError(problems)

"""`resume=auto`: the run that a job continues, found by its name or by its config; one process runs a job at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lrflow import files
from lrflow.config.config import Config
from lrflow.config.saved import config_text
from lrflow.config.schemas.objects import AUTO
from lrflow.config.validation import META
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.runs import RunFolder, newest_checkpoint

IGNORED_KEYS = (
    "resume", "task", "against", "output", "name", "report", "horizon", "logger", "trial",
    "trainer.progress",
)  # fmt: skip
"""Keys that do not change what a run computes: where it is written, what it is called, how it is started."""

_AUTO_LR = f"optimizer.lr={AUTO}"


@dataclass(frozen=True)
class Decision:
    """What the processes of a command do.

    Args:
        source: value of `resume=` with which they continue; None: a new run, or none.
        checkpoint: from which the run is resumed; None: it starts, or nothing is run.
        exit_code: with which they end at once: 0 if the run is finished; None: they run.
    """

    source: str | None = None
    checkpoint: Path | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Job:
    """What a command trains; each start of the same command is the same job.

    Args:
        output: folder of the run folders.
        title: name of the run in its folder.
        name: value of `name=`; None: the job is known by its config.
        fingerprint: of its config, without the keys that do not change what it computes.
    """

    output: Path
    title: str
    name: str | None
    fingerprint: str

    @classmethod
    def of(cls, config: Config) -> Job:
        """Return the job of a config that was composed without an earlier run."""
        return cls(Path(config.output), config.title, config.name, fingerprint(config_text(config)))

    def __str__(self) -> str:
        return f"name={self.name}" if self.name is not None else f"the config {self.fingerprint}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the job within the block, so that no other process trains it.

        Raises:
            LrflowError: another process holds it.
            ConfigError: the output folder cannot be created.
        """
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot create this folder: {error.strerror}"
            raise ConfigError([Problem("output", message, str(self.output))]) from error
        try:
            with files.lock(self.output / f".job-{self.name or self.fingerprint}.lock", wait=False):
                yield
        except files.LockedError as error:
            raise LrflowError(f"resume=auto: process {error.holder} is already running this job ({self})") from None

    def find(self) -> RunFolder | None:
        """Return the run folder of this job with the newest checkpoint; None: no run of it has a checkpoint.

        Raises:
            ConfigError: the run of this name has finished, and it had another config.
        """
        newest: dict[RunFolder, float] = {}
        for folder in RunFolder.created(self.output, self.title):
            if checkpoint := newest_checkpoint(folder.path):
                newest[folder] = checkpoint.stat().st_mtime
        for folder in sorted(newest, key=lambda one: (newest[one], one.path.name), reverse=True):
            found = _saved(folder.config)
            if found is None:
                continue
            same = fingerprint_of(found) == self.fingerprint
            if self.name is None and same and found.get("name") is None:
                return folder
            if self.name is not None and found.get("name") == self.name:
                if not same and is_finished(folder):
                    message = f"{folder.path} has this name and is finished, but has another config"
                    raise ConfigError([Problem("name", message, self.name, "take another name")])
                return folder
        return None


def is_finished(folder: RunFolder) -> bool:
    """Return whether the run in a folder made every step of its plan, and that is recorded."""
    return bool(folder.read_summary().get("status") == "finished")


def fingerprint(text: str) -> str:
    """Return the fingerprint of the job whose config.yaml has this text."""
    found: Any = OmegaConf.to_container(OmegaConf.create(text))
    return fingerprint_of(found)


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """Return the fingerprint of a saved config: 12 hex digits, equal for equal values."""
    rest = json.loads(json.dumps(content, default=str))
    if _AUTO_LR in (rest.pop(META, None) or {}).get("overrides", ()):
        rest["optimizer"]["lr"] = AUTO  # the config of a run that has started holds the LR that was found
    taken = (rest.get("scaling") or {}).get("found") or {}
    for key, value in (taken.get("given") or {}).items():  # what the config had before it took another run's LR
        above, _, last = key.rpartition(".")
        reduce(getitem, above.split("."), rest)[last] = value
    for key in (*IGNORED_KEYS, "hydra", "find.found", "scaling.found"):
        node, *parts = rest, *key.split(".")
        for part in parts[:-1]:
            node = node.get(part) or {}
        node.pop(parts[-1], None)
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12]


def _saved(path: Path) -> dict[str, Any] | None:
    """Return the content of a config.yaml; None if it cannot be read."""
    try:
        found = OmegaConf.to_container(OmegaConf.load(path))
    except Exception:  # a run that was killed, or a file of the user
        return None
    return found if isinstance(found, dict) and "optimizer" in found else None  # type: ignore[return-value]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with dotted keys; lists are values."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the differences of two configurations that matter to a run: (key, before, now), sorted by key."""
    was, has = flatten(before), flatten(now)
    keys = sorted({*was, *has})
    return [(key, was.get(key), has.get(key)) for key in keys if was.get(key) != has.get(key) and not _is_ignored(key)]


def _is_ignored(key: str) -> bool:
    return any(key == ignored or key.startswith(f"{ignored}.") for ignored in IGNORED_KEYS)

"""Run folders: their files and lock, the id of a run, and the search for checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lrflow import files
from lrflow.errors import ConfigError, LrflowError, Problem

log = logging.getLogger("lrflow")

_RUN_ID = re.compile(r"[\w.-]+\n|[0-9a-f]{12}")

BEST = "best.ckpt"
"""File name of the best checkpoint."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    It contains `config.yaml`, `plan.json`, `plan.csv`, `plan.png`, `metrics.csv`, `environment.json`, `summary.json`,
    `run_id` and `checkpoints/`.

    Args:
        path: path of the folder.
    """

    path: Path

    @classmethod
    def create(cls, output: Path, name: str) -> RunFolder:
        """Create a new folder under `output`, named after the time and `name`.

        Raises:
            ConfigError: the folder cannot be created.
        """
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        for count in range(1, 1000):
            path = output / (f"{stamp}_{name}" if count == 1 else f"{stamp}_{name}-{count}")
            try:
                path.mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                if not path.parent.is_dir():
                    raise ConfigError([Problem("output", "is not a folder", str(output))]) from None
                continue
            except OSError as error:
                message = f"cannot create a run folder there: {error.strerror}"
                raise ConfigError([Problem("output", message, str(output))]) from error
            return cls(path)
        raise LrflowError(f"output = {str(output)!r}: the folder already has a thousand runs of this second")

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """Create the folder that a sweep assigned to its job, unless it exists.

        Raises:
            LrflowError: the folder cannot be created.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LrflowError(f"{path}: cannot create the run folder: {error.strerror}") from error
        return cls(path)

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder:
        """Return the folder of the run that wrote a checkpoint, which lies in its `checkpoints/`."""
        return cls(checkpoint.parent.parent)

    def discard(self) -> None:
        """Remove the folder of a run that did not start.

        Raises:
            OSError: the folder contains other files.
        """
        for name in (".lock", "run_id"):
            (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder within the block, so that no other process runs in it.

        Raises:
            LrflowError: another process holds the lock.
        """
        try:
            with files.lock(self.path / ".lock", wait=False):
                yield
        except files.LockedError as error:
            raise LrflowError(f"{self.path}: process {error.holder} is already running this run") from None

    def holder(self) -> str | None:
        """Return the id of the process that holds the lock, or None."""
        return files.holder(self.path / ".lock")

    @contextmanager
    def restored_unless(self, started: Callable[[], bool]) -> Iterator[None]:
        """Restore the run's files if the block, which resumes the run, fails before its first step.

        Otherwise the folder would contain the config of a run that made no step, and the next resume would use it.

        Args:
            started: returns whether a step was made; called when the block raises.
        """
        names = ("config.yaml", "environment.json", "plan.csv", "plan.json", "plan.png", "summary.json")
        record = [self.path / name for name in names]
        before = {file: file.read_bytes() for file in record if file.exists()}
        try:
            yield
        except BaseException:
            if not started():
                for file in record:
                    file.unlink(missing_ok=True)
                for file, content in before.items():
                    files.write_whole(file, content)
            raise

    @property
    def run_id(self) -> str:
        """Id of the run on dashboards: random, created once and kept in the folder when the run is resumed.

        A folder that lrflow 0.1 wrote without an id gets the one that dashboards had then, a hash of the folder's name,
        so that a resumed run continues there. The job of a sweep gets a new id: its folder is named by its number, so
        the jobs of that number in all sweeps had the same hash. A run whose file is empty or incomplete also gets a new
        id.
        """
        path, name = self.path / "run_id", self.path.name
        new = secrets.token_hex(6)
        try:
            found = path.read_text(errors="replace")
            if _RUN_ID.fullmatch(found):
                return found.strip()
            log.warning("%s is incomplete: the run has a new id on dashboards, %s", path, new)
        except FileNotFoundError:
            if self.config.exists() and not name.isdecimal():
                new = hashlib.sha256(name.encode()).hexdigest()[:12]
        files.write_whole(path, f"{new}\n")
        return new

    @property
    def config(self) -> Path:
        """The composed config, without secrets."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row per optimizer step and one per validation."""
        return self.path / "metrics.csv"

    @property
    def plan(self) -> Path:
        """The plan that the run executes, as JSON."""
        return self.path / "plan.json"

    @property
    def summary(self) -> Path:
        """How the run ended: status, reason and last metrics."""
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The best checkpoint according to `trainer.checkpoint.monitor`."""
        return self.checkpoints / BEST

    def relative(self, path: Path) -> str:
        """Return a path as the run's records name it: relative if it lies in the folder, else absolute."""
        path, home = path.resolve(), self.path.resolve()
        return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)

    def write_environment(self) -> None:
        """Write environment.json: command, start time, machine and versions of packages."""
        packages = ("lrflow", "torch", "pytorch-lightning", "torchmetrics", "numpy", "hydra-core", "omegaconf")
        record = {
            "command": [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "versions": {name: _version(name) for name in packages},
        }
        self._write(self.path / "environment.json", record)

    def write_summary(self, record: Mapping[str, Any]) -> None:
        """Write summary.json atomically; replaces an earlier one."""
        self._write(self.summary, record)

    def read_summary(self) -> dict[str, Any]:
        """Return the content of summary.json; empty if there is none or it cannot be read."""
        try:
            return json.loads(self.summary.read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    @staticmethod
    def _write(path: Path, record: Mapping[str, Any]) -> None:
        files.write_json(path, record)


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the latest step in a run folder, or None; `best.ckpt` does not count."""
    return next(reversed(checkpoints_in(RunFolder(folder).checkpoints)), None)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints `step-NUMBER.ckpt` in a folder, sorted by step."""
    # Numbers are padded to seven digits; a longer one makes the name longer.
    return sorted(folder.glob("step-*.ckpt"), key=lambda path: (len(path.name), path.name))


def find_checkpoint(wanted: str, output: Path, key: str) -> Path:
    """Return the checkpoint that `last`, a run folder or a checkpoint file stands for.

    Args:
        wanted: `last` (the newest run under `output` that has a checkpoint), a run folder, or a file.
        output: folder of the run folders.
        key: config key that the error message names.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    if wanted == "last":
        found = [*output.glob("*/checkpoints/step-*.ckpt"), *output.glob("sweeps/*/*/checkpoints/step-*.ckpt")]
        if not found:
            problem = f"expected a run with a checkpoint under {output}/, but there is none"
            raise ConfigError([Problem(key, problem, wanted, "train first, or give a run folder or a checkpoint")])
        newest = max(found, key=lambda path: (path.stat().st_mtime, path.name))
        return newest_checkpoint(RunFolder.of(newest).path) or newest
    path = Path(wanted)
    if path.is_file():
        return path
    if path.is_dir():
        if checkpoint := newest_checkpoint(path):
            return checkpoint
        raise ConfigError([Problem(key, "expected a run folder with a checkpoint, but it has none", wanted)])
    raise ConfigError([Problem(key, "expected `last`, an existing run folder or an existing checkpoint file", wanted)])

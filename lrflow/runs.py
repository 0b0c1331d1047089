"""Runs on disk: the run folder, the whole truth of a run, and how one is found again."""

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
"""The name of the best checkpoint."""


@dataclass(frozen=True)
class RunFolder:
    """Where everything about one run lies.

    Holds `config.yaml`, `plan.json` with its table and picture, `metrics.csv`, `environment.json`, `summary.json`,
    `run_id` and `checkpoints/`.

    Args:
        path: the folder itself.
    """

    path: Path

    @classmethod
    def create(cls, output: Path, name: str) -> RunFolder:
        """Make a new folder under `output`, named by the time and `name`, that no other run has.

        Raises:
            ConfigError: the folder cannot be made or written to.
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
                message = f"a run folder cannot be made there: {error.strerror}"
                raise ConfigError([Problem("output", message, str(output))]) from error
            return cls(path)
        raise LrflowError(f"output = {str(output)!r}: a thousand runs of the same second stand there already")

    @classmethod
    def claim(cls, path: Path) -> RunFolder:
        """Take the folder that a sweep assigned to its job.

        Raises:
            LrflowError: the folder cannot be made or written to.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LrflowError(f"{path}: cannot make the run folder: {error.strerror}") from error
        return cls(path)

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder:
        """The run that a checkpoint is of, where it lies in a run's `checkpoints/`."""
        return cls(checkpoint.parent.parent)

    def discard(self) -> None:
        """Remove the folder of a run that never began; one that holds anything stays.

        Raises:
            OSError: it holds something.
        """
        for name in (".lock", "run_id"):
            (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep any other process from running in this folder.

        Raises:
            LrflowError: one does.
        """
        try:
            with files.lock(self.path / ".lock", wait=False):
                yield
        except files.LockedError as error:
            raise LrflowError(f"{self.path}: this run is running already, as process {error.holder}") from None

    def holder(self) -> str | None:
        """The process that runs in this folder; None: there is none."""
        return files.holder(self.path / ".lock")

    @contextmanager
    def as_before_unless(self, begun: Callable[[], bool]) -> Iterator[None]:
        """Put the record of the run back as it was, when what goes on with it fails before it has begun.

        Without it the folder would say what no step was made with, and that would be resumed the next time.

        Args:
            begun: tells whether it has, at a failure.
        """
        names = ("config.yaml", "environment.json", "plan.csv", "plan.json", "plan.png", "summary.json")
        record = [self.path / name for name in names]
        before = {file: file.read_bytes() for file in record if file.exists()}
        try:
            yield
        except BaseException:
            if not begun():
                for file in record:
                    file.unlink(missing_ok=True)
                for file, content in before.items():
                    files.write_whole(file, content)
            raise

    @property
    def run_id(self) -> str:
        """What dashboards know the run by: made once, at random, and kept in the folder however often it is resumed.

        A folder that lrflow 0.1 wrote before it kept ids has the one that dashboards got then, made of the folder's
        name, so that its run goes on there. Not so the job of a sweep, whose name is its number: every sweep's job of
        that number had the same id, and to write on under it would mix the run with theirs; it gets a new one. So does
        a run whose file is empty or torn.
        """
        path, name = self.path / "run_id", self.path.name
        made = secrets.token_hex(6)
        try:
            found = path.read_text(errors="replace")
            if _RUN_ID.fullmatch(found):
                return found.strip()
            log.warning("%s is torn: the run has a new id on dashboards, %s", path, made)
        except FileNotFoundError:
            if self.config.exists() and not name.isdecimal():
                made = hashlib.sha256(name.encode()).hexdigest()[:12]
        files.write_whole(path, f"{made}\n")
        return made

    @property
    def config(self) -> Path:
        """The composed configuration, without secrets."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row an optimizer step, and one a validation."""
        return self.path / "metrics.csv"

    @property
    def plan(self) -> Path:
        """The plan that the run executes, as data."""
        return self.path / "plan.json"

    @property
    def summary(self) -> Path:
        """How the run ended: its status and its last metrics."""
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The best checkpoint by `trainer.checkpoint.monitor`."""
        return self.checkpoints / BEST

    def relative(self, path: Path) -> str:
        """A path as the run's records name it: relative to the folder where the file lies in it, else absolute."""
        path, home = path.resolve(), self.path.resolve()
        return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)

    def write_environment(self) -> None:
        """Record the command, the machine and the versions that this run was made with."""
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
        """Record how the run ended; replaces an earlier summary as a whole."""
        self._write(self.summary, record)

    def read_summary(self) -> dict[str, Any]:
        """The summary as it was written, or an empty one while the run has none."""
        try:
            return json.loads(self.summary.read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    @staticmethod
    def _write(path: Path, record: Mapping[str, Any]) -> None:
        files.write_whole(path, json.dumps(record, indent=2) + "\n")


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step in a run folder, or None; `best.ckpt` is not one of them."""
    return next(reversed(checkpoints_in(RunFolder(folder).checkpoints)), None)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints `step-NUMBER.ckpt` in a folder, by their steps."""
    # A number beyond the seven digits that it is padded to makes the name longer.
    return sorted(folder.glob("step-*.ckpt"), key=lambda path: (len(path.name), path.name))


def find_checkpoint(wanted: str, output: Path, key: str) -> Path:
    """The checkpoint that `last`, a run folder or a checkpoint file stands for.

    Args:
        wanted: `last` (the newest run under `output` that has a checkpoint), a run folder, or a file.
        output: where run folders are made.
        key: the configuration key that asks, for the message.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    if wanted == "last":
        found = [*output.glob("*/checkpoints/step-*.ckpt"), *output.glob("sweeps/*/*/checkpoints/step-*.ckpt")]
        if not found:
            problem = f"expected a run with a checkpoint under {output}/, and there is none"
            raise ConfigError([Problem(key, problem, wanted, "train first, or give a run folder or a checkpoint")])
        newest = max(found, key=lambda path: (path.stat().st_mtime, path.name))
        return newest_checkpoint(RunFolder.of(newest).path) or newest
    path = Path(wanted)
    if path.is_file():
        return path
    if path.is_dir():
        if checkpoint := newest_checkpoint(path):
            return checkpoint
        raise ConfigError([Problem(key, "expected a run folder with a checkpoint, and it has none", wanted)])
    raise ConfigError([Problem(key, "expected `last`, a run folder or a checkpoint file that exists", wanted)])

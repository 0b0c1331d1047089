"""Run folders: their files and lock, the id of a run, and the search for checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from lrflow import files
from lrflow.errors import ConfigError, LrflowError, Problem, nearest
from lrflow.working_copy import git_state

log = logging.getLogger("lrflow")
T = TypeVar("T", dict[str, Any], list[Any])

_RUN_ID = re.compile(r"[\w.-]+\n|[0-9a-f]{12}")

_STAMP = "%Y-%m-%d_%H-%M-%S"
"""Time at the start of a run folder's name."""

OUTPUT = "outputs"
"""Default of `output`, the folder of the run folders."""

SUFFIX = ".ckpt"
"""End of the names of checkpoints."""

BEST = f"best{SUFFIX}"
"""File name of the best checkpoint."""

FINDINGS = "findings.jsonl"
"""File name of what the monitors of a run found."""

PAGE = "report.html"
"""File name of the page of a run, a sweep or a range test."""

EARLIER = "earlier"
"""Name of the folder in a run folder that receives the records of earlier runs in it."""

ROLLBACKS = "rollbacks"
"""Name of the folder in a run folder with the rows that rollbacks replaced, one file per rollback."""

_STAGED = ".next"
_RECORD = (
    "config.yaml", "plan.json", "plan.csv", "plan.png", "metrics.csv", "sharpness.png", PAGE, "checkpoints",
    "environment.json", "summary.json", FINDINGS, ROLLBACKS, "evaluations.json", "run_id", "comet", "tensorboard",
    "wandb",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    It contains `config.yaml`, `plan.json`, `plan.csv`, `plan.png`, `metrics.csv`, `environment.json`, `summary.json`,
    `run_id` and `checkpoints/`, `findings.jsonl` if monitors found something, and `report.html` once it has ended.

    Args:
        path: path of the folder.
    """

    path: Path

    is_written = True
    """Whether the run writes files."""

    @classmethod
    def create(cls, output: Path, name: str) -> RunFolder:
        """Create a new folder under `output`, named after the time and `name`.

        Raises:
            ConfigError: the folder cannot be created.
        """
        stamp = datetime.now().strftime(_STAMP)
        for number in range(1, 1000):
            path = output / (f"{stamp}_{name}" if number == 1 else f"{stamp}_{name}-{number}")
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
    def created(cls, output: Path, name: str) -> list[RunFolder]:
        """Return the folders that `create` has made for this name."""
        time = re.sub("%.", "[0-9]*", _STAMP)
        stamped = re.compile(rf"{re.sub('%.', '[0-9]+', _STAMP)}_{re.escape(name)}(-[0-9]+)?")
        return [cls(path) for path in output.glob(f"{time}_{escape(name)}*") if stamped.fullmatch(path.name)]

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

    def start_over(self) -> None:
        """Move the record of an earlier run in this folder to `earlier/NUMBER/`, so that the folder has one history."""
        if not any(path.exists() for path in (self.metrics, self.summary, self.checkpoints)):
            return
        places = (self.path / EARLIER / str(number) for number in count(1))
        place = next(one for one in places if not one.exists())
        log.warning("%s: an earlier run was started here; its record is now in %s", self.path, place)
        place.mkdir(parents=True)
        for name in _RECORD:
            if (self.path / name).exists():
                (self.path / name).rename(place / name)

    def stage(self) -> RunFolder:
        """Return an empty folder within this one for the record of a resumed run, until `commit`."""
        self._discard_staged()
        (self.path / _STAGED).mkdir()
        return RunFolder(self.path / _STAGED)

    def commit(self) -> None:
        """Replace the record by the staged one, because the resumed run continues; it has not ended any more."""
        self.summary.unlink(missing_ok=True)
        for file in sorted((self.path / _STAGED).glob("*")):
            file.replace(self.path / file.name)
        self._discard_staged()

    def _discard_staged(self) -> None:
        shutil.rmtree(self.path / _STAGED, ignore_errors=True)

    @contextmanager
    def restored_unless(self, started: Callable[[], bool]) -> Iterator[None]:
        """Restore the run's files if the block, which resumes the run, fails before its first step.

        Otherwise the folder would contain the record of a run that made no step, and the next resume would use it.

        Args:
            started: returns whether a step was made; called when the block raises.
        """
        before = self.summary.read_bytes() if self.summary.exists() else None
        try:
            yield
        except BaseException:
            if not started():
                self.summary.unlink(missing_ok=True)
                if before is not None:
                    files.write_whole(self.summary, before)
            raise
        finally:
            self._discard_staged()

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
    def present_config(self) -> Path:
        """The config of the process that runs here now: the staged one of a resumed run, until it continues."""
        staged = self.path / _STAGED / "config.yaml"
        return staged if staged.exists() else self.config

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

    def write_environment(self, **facts: Any) -> None:
        """Write environment.json: command, start time, machine, versions, commit and further facts."""
        packages = ("lrflow", "torch", "pytorch-lightning", "torchmetrics", "numpy", "hydra-core", "omegaconf")
        record = {
            "command": [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "versions": {name: _version(name) for name in packages},
            "git": git_state(),
            **facts,
        }
        self._write(self.path / "environment.json", record)

    def write_summary(self, record: Mapping[str, Any]) -> None:
        """Write summary.json atomically; replaces an earlier one."""
        self._write(self.summary, record)

    def read_summary(self) -> dict[str, Any]:
        """Return the content of summary.json; empty if there is none or it cannot be read."""
        return read_json(self.summary, dict)

    @staticmethod
    def _write(path: Path, record: Mapping[str, Any]) -> None:
        files.write_json(path, record)


class NoFolder(RunFolder):
    """The folder of a run that writes no files. It is never made."""

    is_written = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock nothing."""
        yield

    @staticmethod
    def _write(path: Path, record: Mapping[str, Any]) -> None:
        """Write nothing."""


def read_json(path: Path, kind: type[T]) -> T:
    """Return the content of a JSON file of a run, or an empty one if there is none or if it is incomplete.

    Args:
        path: the file.
        kind: of the content, dict or list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, kind):
            return content
    except OSError:
        return kind()
    except (ValueError, RecursionError):
        pass
    _report_torn(path, path.absolute())
    return kind()


@cache
def _report_torn(path: Path, unique: Path) -> None:
    log.warning("%s is incomplete, as after a loss of power; it counts as missing", path)


@cache
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


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint `step-NUMBER.ckpt`."""
    return int(checkpoint.stem.rpartition("-")[2])


def name_of_step(step: int) -> str:
    """Return the file name of one of the latest checkpoints of a run."""
    return f"step-{step:07d}{SUFFIX}"


def is_reserved(name: str) -> bool:
    """Return whether a file name is that of a latest, a merged or the best checkpoint, so that no other may have it."""
    return name == BEST or name.startswith(("step-", "merged-"))


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
    if files.is_file(path):
        return path
    if wanted and files.is_folder(path):
        if checkpoint := newest_checkpoint(path):
            return checkpoint
        raise ConfigError([Problem(key, "expected a run folder with a checkpoint, but it has none", wanted)])
    known = ["last", *(["auto"] if key == "resume" else []), *(str(run) for run in output.glob("[!.]*"))]
    hint = f"did you mean {near[0]}?" if (near := nearest(wanted.lower(), known, count=1)) else None
    message = "expected `last`, an existing run folder or an existing checkpoint file"
    raise ConfigError([Problem(key, message, wanted, hint)])

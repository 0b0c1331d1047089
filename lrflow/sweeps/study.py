"""The storage of a sweep: Optuna's databases, a journal file that survives crashes, and `sweep.yaml`."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend

import lrflow
from lrflow.config.packages import missing_package
from lrflow.config.secrets import redact
from lrflow.config.sweep import Sweep
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import lock, write_whole
from lrflow.sweeps.folders import RECORD
from lrflow.sweeps.space import Space

JOURNAL = "study.journal"
"""The journal's name in a sweep folder."""

HEARTBEAT = 60
"""Seconds between two signs of life of a trial in a database; without one for twice as long it counts as dead."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notices that its heartbeats and samplers may change, and that heartbeats are its own loop's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield


def storage_error(error: Exception) -> str:
    """What a database says of an error, in a line."""
    return str(error.__cause__ or error).strip().splitlines()[0]


def storage_of(name: str, folder: Path) -> str:
    """What a job opens: the journal's path, or the URL of a database.

    Args:
        name: `journal`, `memory` or a URL.
        folder: the sweep's.
    """
    return str((folder / JOURNAL).resolve()) if name == "journal" else name


def is_database(storage: str) -> bool:
    """Whether a storage, as `storage_of` gives it, is a database, which several machines may share."""
    return "://" in storage


def open_storage(storage: str, retries: int = 0) -> BaseStorage:
    """Opens a storage.

    Args:
        storage: as `storage_of` gives it.
        retries: how often the trials of machines that died are run again, in a database.

    Raises:
        ConfigError: a database that cannot be opened.
        LrflowError: a journal that cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage == "memory":
        return optuna.storages.InMemoryStorage()
    if not is_database(storage):
        return JournalStorage(Journal(Path(storage)))
    try:
        with quiet():
            again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=retries) if retries else None
            return optuna.storages.RDBStorage(
                storage,
                engine_kwargs={"pool_pre_ping": True},  # a server may be started again meanwhile
                heartbeat_interval=HEARTBEAT,
                heartbeat_stale_trial_callback=again,
            )
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or "sqlalchemy"
        raise ConfigError([missing_package(driver, "sweep.storage", storage)]) from None
    except Exception as error:
        raise ConfigError([Problem("sweep.storage", f"cannot be opened: {storage_error(error)}", storage)]) from None


class Journal(JournalFileBackend):
    """Optuna's journal file, in which no half line stays.

    Its lock is one that a killed process lets go of at once. What a process wrote last before it was
    killed, or before the disk was full, may be half a line: whoever writes next cuts it off.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), lock_obj=None)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends lines, all of them or none.

        Raises:
            LrflowError: the disk is full, or the file cannot be written.
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            with lock(self.path.with_name(f".{self.path.name}.lock")), self.path.open("r+b") as file:
                end = _end_of_lines(file)
                file.truncate(end)
                file.seek(end)
                try:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), end)
                    raise
        except OSError as error:
            message = f"{self.path}: the trials cannot be noted: {error.strerror}; make room and resume the sweep"
            raise LrflowError(message) from error


def _end_of_lines(file: Any) -> int:
    """The size of a file up to the end of its last whole line."""
    size = file.seek(0, os.SEEK_END)
    start = size
    while start:
        start = max(0, start - 4096)
        file.seek(start)
        if (at := file.read(min(4096, size - start)).rfind(b"\n")) >= 0:
            return start + at + 1
    return 0


class Heartbeat:
    """Signs of life of the trials of a batch, in a database; nothing elsewhere.

    Args:
        storage: of the study.
        trials: their ids.
    """

    def __init__(self, storage: BaseStorage, trials: list[int]) -> None:
        self._storage, self._trials, self._over = storage, trials, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        if isinstance(self._storage, BaseHeartbeat):
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        assert isinstance(self._storage, BaseHeartbeat)
        while True:
            for trial in self._trials:
                with suppress(optuna.exceptions.StorageInternalError):  # a server that is away may come back
                    self._storage.record_heartbeat(trial)
            if self._over.wait(HEARTBEAT / 2):
                return


def mend_journal(path: Path) -> str | None:
    """Cuts off what is broken at the end of a journal, and keeps a copy of the whole.

    To be called by the one sweep that the journal belongs to.

    Args:
        path: the file.

    Returns:
        what was done, or None.

    Raises:
        LrflowError: a line in the midst of it is broken.
    """
    if not path.exists():
        return None
    lines = path.read_bytes().splitlines(keepends=True)
    broken = [number for number, line in enumerate(lines) if not _is_sound(line)]
    if not broken:
        return None
    if any(_is_sound(line) for line in lines[broken[0] :]):
        raise LrflowError(f"{path}: line {broken[0] + 1} is broken, and lines after it are not; put back a copy of it")
    kept = next(
        other for count in range(1, 1000) if not (other := path.with_name(f"{path.name}.broken-{count}")).exists()
    )
    write_whole(kept, b"".join(lines))
    with path.open("r+b") as file:
        file.truncate(sum(map(len, lines[: broken[0]])))
    what = "half a line" if len(broken) == 1 else f"{len(broken)} lines"
    return f"{path}: {what} at its end could not be read and was cut off; the file as it was is {kept.name}"


def _is_sound(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


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

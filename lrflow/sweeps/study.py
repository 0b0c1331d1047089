"""The storage of a sweep: Optuna's databases, a journal file that survives crashes, and `sweep.yaml`."""

from __future__ import annotations

import json
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
import yaml
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend

import lrflow
from lrflow.config.origins import READ_ERRORS, schema_line, yaml_problem
from lrflow.config.packages import missing_package
from lrflow.config.schemas.sweep import SWEEP_RECORD, Sweep
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import lock, name_of_broken, write_whole
from lrflow.redaction import redact, redactor
from lrflow.sweeps.folders import RECORD
from lrflow.sweeps.space import Space

T = TypeVar("T")

JOURNAL = "study.journal"
"""The name of the journal file in a sweep folder."""


HEARTBEAT = 60
"""Seconds between two heartbeats of a trial in a database; a trial without one for twice as long counts as dead."""

PATIENCE = 60
"""Seconds to wait for other processes that create or write a database."""

_OTHERS_WRITE = ("already exists", "unique constraint", "duplicate", "is locked", "deadlock", "no such table")
"""In the messages of a database while another process creates its tables or writes."""


def open_storage(storage: str, retries: int = 0) -> BaseStorage:
    """Open a storage.

    Args:
        storage: as `storage_of` returns it.
        retries: how often a trial in a database is run again after its machine died.

    Raises:
        ConfigError: the database cannot be opened.
        LrflowError: the journal cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage == "memory":
        return optuna.storages.InMemoryStorage()
    if not is_database(storage):
        return JournalStorage(Journal(Path(storage)))
    try:
        return patiently(partial(_open_database, storage, retries))
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or "sqlalchemy"
        raise ConfigError([missing_package(driver, "sweep.storage", storage)]) from None
    except Exception as error:
        raise ConfigError([Problem("sweep.storage", f"cannot be opened: {storage_error(error)}", storage)]) from None


def _open_database(storage: str, retries: int) -> BaseStorage:
    """Connect to a database, and create Optuna's tables if it has none."""
    engine: dict[str, Any] = {"pool_pre_ping": True}  # reconnects after a restart of the server
    if storage.startswith("sqlite"):
        engine["connect_args"] = {"timeout": PATIENCE}  # SQLite has one writer at a time, and gives up after 5 s
    with quiet_optuna():
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=retries) if retries else None
        return optuna.storages.RDBStorage(
            storage, engine_kwargs=engine, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=retry
        )


def patiently(work: Callable[[], T]) -> T:
    """Call a function again while it fails because another process creates or writes the same tables.

    Optuna creates its tables without a lock, so that of several processes that open a new database at once, all but
    one fail.

    Raises:
        Exception: any other failure, or the same one for `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    pause = 0.02
    while True:
        try:
            return work()
        except Exception as error:
            text = f"{error} {error.__cause__}".lower()
            if time.monotonic() > deadline or not any(sign in text for sign in _OTHERS_WRITE):
                raise
        time.sleep(random.uniform(pause, 2 * pause))  # at random, so that the same processes do not meet again
        pause = min(2 * pause, 1.0)


def storage_of(name: str, folder: Path) -> str:
    """Return what a job opens: the path of the journal, `memory`, or the URL of a database.

    Args:
        name: `journal`, `memory` or a URL.
        folder: of the sweep.
    """
    return str((folder / JOURNAL).resolve()) if name == "journal" else name


def is_database(storage: str) -> bool:
    """Whether a storage, as `storage_of` returns it, is a database, which several machines may share."""
    return "://" in storage


def storage_error(error: Exception) -> str:
    """Return the message of a database error, in one line."""
    return str(error.__cause__ or error).strip().splitlines()[0]


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features and about heartbeats outside its own loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield


class Heartbeat:
    """Records heartbeats of the trials of a batch in a database; does nothing for other storages.

    Args:
        storage: of the study.
        trials: their ids in the storage.
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
                with suppress(optuna.exceptions.StorageInternalError):  # the server may be back for the next one
                    self._storage.record_heartbeat(trial)
            if self._over.wait(HEARTBEAT / 2):
                return


class Journal(JournalFileBackend):
    """Optuna's journal file, made robust against killed processes and full disks.

    Its lock is released at once when the process that holds it is killed. An incomplete last line, which a killed
    process or a full disk may leave, is removed by the next process that writes.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), lock_obj=None)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append all lines or none.

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
                    file.write(redactor.file(text).encode())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), end)
                    raise
        except OSError as error:
            message = f"{self.path}: trials cannot be recorded: {error.strerror}; free disk space and resume the sweep"
            raise LrflowError(message) from error


def _end_of_lines(file: Any) -> int:
    """Return the size of a file up to the end of its last complete line."""
    size = file.seek(0, os.SEEK_END)
    start = size
    while start:
        start = max(0, start - 4096)
        file.seek(start)
        if (at := file.read(min(4096, size - start)).rfind(b"\n")) >= 0:
            return start + at + 1
    return 0


def repair_journal(path: Path) -> str | None:
    """Cut a journal before its first broken line, and save a copy of the original file.

    Trials that are lost by this are read from their run folders. Only the sweep that owns the journal may call this.

    Args:
        path: the file.

    Returns:
        a message about the repair; None: the journal was intact.
    """
    if not path.exists():
        return None
    lines = path.read_bytes().splitlines(keepends=True)
    broken = [number for number, line in enumerate(lines) if not _is_valid(line)]
    if not broken:
        return None
    backup = write_whole(name_of_broken(path), b"".join(lines))
    with path.open("r+b") as file:
        file.truncate(sum(map(len, lines[: broken[0]])))
    removed = len(lines) - broken[0]
    what = "an incomplete line at the end" if removed == 1 else f"{removed} lines from the first broken one on"
    return f"{path}: removed {what}; the original file is {backup.name}"


def _is_valid(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def write_record(
    folder: Path, settings: Sweep, space: Space, overrides: Sequence[str], study: str, ended: str | None = None
) -> None:
    """Write `sweep.yaml`: the settings, the space and the overrides of a sweep.

    Args:
        folder: of the sweep.
        settings: of the sweeper.
        space: the search space.
        overrides: of the command line, including those of Hydra's own section.
        study: the study's name.
        ended: why the sweep ended before its last trial; None: it has not.
    """
    content = {
        "version": lrflow.__version__,
        "study": study,
        "overrides": [text.removeprefix("++") for text in overrides],
        "space": space.describe(),
        "settings": {**settings.model_dump(exclude={"resume", "study"}), "study": study},
        **({"ended": ended} if ended else {}),
    }
    text = yaml.safe_dump(redact(content), sort_keys=False, allow_unicode=True, width=120)
    write_whole(
        folder / RECORD,
        f"{schema_line(folder, SWEEP_RECORD)}"
        f"# Settings and search space of this sweep; its trials are in the folders beside this file.\n{text}",
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_RECORDED: dict[str, Callable[[Any], bool]] = {
    "overrides": _are_texts,
    "space": _are_texts,
    "study": lambda value: isinstance(value, str),
    "settings": lambda value: isinstance(value, dict) and isinstance(value.get("sampler"), str),
}
"""Checks of the entries of `sweep.yaml` that are read."""


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record that `write_record` wrote.

    Raises:
        ConfigError: the folder is not a sweep folder, or its record is broken.
    """
    try:
        record = yaml.safe_load((folder / RECORD).read_text(encoding="utf-8"))
        if isinstance(record, dict) and all(holds(record.get(key)) for key, holds in _RECORDED.items()):
            return record
        message = f"{RECORD} in this folder is not the record of a sweep as lrflow wrote it; was it cut or edited?"
    except FileNotFoundError:
        message = f"expected a sweep folder of hydra/sweeper=lrflow, but {RECORD} is missing"
    except (*READ_ERRORS, ValueError) as error:  # a ValueError is that of a number with too many digits
        known = yaml_problem(error)  # without the lines of the file
        message = f"{RECORD} in this folder {known.message if known else f'cannot be read: {error}'}"
    raise ConfigError([Problem("sweep.resume", message, str(folder))])


_MAY_CHANGE = (
    "sampler",
    "n_trials",
    "budget",
    "seed",
    "retries",
    "timeout",
    "max_time",
    "isolate",
    "rank_ended_early",
    "batch",
    "resume",
    "params",
    "when",
    "pruner",
    "pruning",
)
"""Settings that may change when a sweep is resumed; the axes of the space are compared separately."""


def check_record(record: dict[str, Any], settings: Sweep, space: Space) -> None:
    """Check that a sweep can be resumed under these settings.

    Raises:
        ConfigError: the space, the objective or another fixed setting differs.
    """
    problems = [
        Problem(text.partition(":")[0], "differs from the sweep's search space", text.partition(": ")[2], hint)
        for text in space.describe()
        if text not in record["space"]
        for hint in ("start a new sweep for a new space; leave out its keys to resume",)
    ]
    now, before = settings.model_dump(), {"repeats": 1, **record["settings"]}
    for key in set(now) - set(_MAY_CHANGE) - {"study"}:
        if now[key] != before.get(key) and "***" not in str(before.get(key)):
            problems.append(Problem(f"sweep.{key}", f"expected the sweep's own {before.get(key)}", now[key]))
    if "grid" in (settings.sampler, before["sampler"]) and settings.sampler != before["sampler"]:
        problems.append(Problem("sweep.sampler", f"expected the sweep's own {before['sampler']}", settings.sampler))
    if problems:
        raise ConfigError(problems)

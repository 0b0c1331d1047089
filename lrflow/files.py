"""Atomic file writes and locks between processes."""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir
from typing import Any, BinaryIO

from lrflow.errors import LISTED, nearest
from lrflow.redaction import redact, redactor

_PATIENCE = 0.3
"""Seconds to wait for a lock that should be free, since `holder` acquires it briefly."""

_CLONE = 0x40049409
"""Linux's request FICLONE: let a file share the blocks of another."""


class LockedError(Exception):
    """Raised when another process holds a lock.

    Args:
        holder: id of that process, or `unknown`.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"process {holder} holds it")


def is_file(path: Path) -> bool:
    """Return whether a file exists; False also for a name that the system cannot look up, such as one too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; False also for a name that the system cannot look up, such as one too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder; that of a user who does not exist stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def user_cache() -> Path:
    """Return the folder for what can be made or downloaded again: `lrflow` in `$XDG_CACHE_HOME` or `~/.cache`."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrflow"
    except RuntimeError:  # a user without a home, as in a container
        return Path(gettempdir()) / "lrflow"


def did_you_mean_path(path: Path) -> str | None:
    """Return a hint with the nearest name beside a path that does not exist; None: its folder has none, or too many."""
    if os.path.islink(path) and not (is_file(path) or is_folder(path)):  # also a name that is too long for the disk
        return f"it is a link to {os.readlink(path)}, which leads nowhere"
    near = {one.name: one for one in path.parent.glob("*") if one != path} if is_folder(path.parent) else {}
    if not near or len(near) >= LISTED:
        return None
    close = nearest(path.name, near, count=1)  # of the names alone: the folder is the same
    return f"did you mean {near[close[0]]}?" if close else f"known: {', '.join(map(str, near.values()))}"


def write_whole(path: Path, data: str | bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file atomically: if the writer is killed, a reader finds the old file or the complete new one.

    The data goes to a temporary file in the same folder, which gets the final name once it is on the disk.

    Args:
        path: the file; replaced if it exists.
        data: text, written as UTF-8 without translating line ends and without secrets; bytes; or a function that writes
            to a binary file.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written; the temporary file is removed.
    """
    part = _temporary(path)
    try:
        with part.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(redactor.file(data).encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # before the rename: otherwise a power cut may leave an empty file
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(part)):
            error.filename = str(path)  # the only name that a user knows
            del error.filename2  # of a rename
        raise
    _sync_folder(path.parent)
    return path


def write_json(path: Path, content: Any, default: Callable[[Any], Any] | None = None) -> Path:
    """Write plain data as JSON, atomically and without secrets.

    Args:
        path: the file; replaced if it exists.
        content: plain data.
        default: converts other values, as in `json.dumps`.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written.
    """
    return write_whole(path, json.dumps(redact(content), indent=2, default=default) + "\n")


def remove_parts(path: Path, older: float | None = None) -> None:
    """Remove what killed processes left of a file.

    Args:
        path: the file; a folder: every file in it.
        older: only what was not written to for this many seconds; None: all, as no other process is writing it now.
    """
    folder, name = (path, "*") if path.is_dir() else (path.parent, glob.escape(path.name))
    for part in folder.glob(f".{name}.*.part"):
        with suppress(FileNotFoundError):  # another process removed it, or has finished it
            if older is None or time.time() - part.stat().st_mtime > older:
                part.unlink()


def set_aside(path: Path) -> Path:
    """Rename a broken file to the first free name of the form `NAME.broken-1`, and return the new path.

    Raises:
        OSError: the file cannot be renamed.
    """
    return path.rename(name_of_broken(path))


def name_of_broken(path: Path) -> Path:
    """Return the first free name of the form `NAME.broken-1` for a broken file."""
    names = (path.with_name(f"{path.name}.broken-{count}") for count in range(1, 1000))
    return next(name for name in names if not name.exists())


def copy_whole(source: Path, path: Path) -> Path:
    """Copy a file atomically. The copy is a file of its own, so that nothing that happens to one damages the other.

    Where the file system can (Btrfs, XFS), the two share their blocks until one is written to, which takes no time.

    Args:
        source: existing file.
        path: the copy; a file of that name is replaced.

    Returns:
        The path of the copy.

    Raises:
        OSError: the copy cannot be written; the temporary file is removed.
    """
    with source.open("rb") as file:
        return write_whole(path, lambda copy: _share_or_copy(file, copy))


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock within the block; the kernel releases it when this process dies.

    Forked processes, such as a loader's workers, do not inherit the lock: filelock closes its file in them.

    Args:
        path: file of the lock, created if missing and never removed; it contains the id of the process that holds it.
        wait: wait until the lock is free.

    Raises:
        LockedError: another process holds the lock, and `wait` is False.
        OSError: the file cannot be opened.
    """
    from filelock import FileLock, Timeout  # here, since it imports asyncio

    held = FileLock(path, timeout=-1 if wait else _PATIENCE, poll_interval=0.01)
    try:
        held.acquire()
    except Timeout:
        raise LockedError(_read_holder(path)) from None
    try:
        _write_holder(path, str(os.getpid()))
        yield
    finally:
        _write_holder(path, "")
        held.release()


@contextmanager
def user_lock(name: str) -> Iterator[None]:
    """Hold a lock among the user's processes on this machine, for example while the same data is prepared."""
    user = os.getuid() if hasattr(os, "getuid") else getuser()  # other users cannot write this user's lock file
    with lock(Path(gettempdir()) / f"lrflow-{name}-{user}.lock"):
        yield


def holder(path: Path) -> str | None:
    """Return the id of the process that holds a lock, or None."""
    if not path.exists():
        return None
    from filelock import FileLock, Timeout

    held = FileLock(path, timeout=0)
    try:
        with held:
            return None
    except Timeout:
        return _read_holder(path)
    except OSError:
        return None


def _temporary(path: Path) -> Path:
    """Return the name of the temporary file for `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _share_or_copy(source: BinaryIO, target: BinaryIO) -> None:
    try:
        from fcntl import ioctl

        ioctl(target.fileno(), _CLONE, source.fileno())
    except (ImportError, OSError):  # another system, or a file system that cannot
        shutil.copyfileobj(source, target, 1 << 20)


def _sync_folder(folder: Path) -> None:
    """Sync a folder to the disk, so that a new name survives a power cut; does nothing where the system cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_holder(path: Path, holder: str) -> None:
    with suppress(OSError):  # such as a full disk; the lock is held all the same
        path.write_text(holder)


def _read_holder(path: Path) -> str:
    try:
        return path.read_text() or "unknown"
    except OSError:
        return "unknown"

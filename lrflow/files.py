"""Files that are written whole or not at all, and locks between processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir
from typing import BinaryIO

_PATIENCE = 0.3
"""Seconds to wait for a lock that is to be free: `holder` takes it for a moment."""


class LockedError(Exception):
    """Another process holds a lock.

    Args:
        holder: its process id, or `unknown`.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"process {holder} holds it")


def write_whole(path: Path, data: str | bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file such that a reader finds the earlier one or all of the new one, whatever kills the writer.

    The data goes to a temporary file in the same folder, which gets the final name once it is on the disk.

    Args:
        path: the file; it is replaced if it exists.
        data: text, written as UTF-8 without translating line ends; bytes; or a function that writes to a binary file.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written; nothing is left of the attempt.
    """
    part = _part(path)
    try:
        with part.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # before the rename: else a power cut may leave the new name with an empty file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def link_whole(source: Path, path: Path) -> Path:
    """Give a file a second name; where the file system has no hard links, copy it.

    Args:
        source: a file that is on the disk already.
        path: the second name; what had it before is replaced as a whole.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt.
    """
    part = _part(path)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        with source.open("rb") as file:
            return write_whole(path, lambda copy: shutil.copyfileobj(file, copy))
    try:
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock, which the kernel releases when this process dies.

    Forked processes, such as a loader's workers, do not inherit it: filelock closes its file in them.

    Args:
        path: the lock's file, which is made if need be and stays; it holds the id of the process that has the lock.
        wait: until the lock is free.

    Raises:
        LockedError: another process holds it, and `wait` is false.
        OSError: the file cannot be opened.
    """
    from filelock import FileLock, Timeout  # which imports asyncio

    held = FileLock(path, timeout=-1 if wait else _PATIENCE, poll_interval=0.01)
    try:
        held.acquire()
    except Timeout:
        raise LockedError(_read(path)) from None
    try:
        _note(path, str(os.getpid()))
        yield
    finally:
        _note(path, "")
        held.release()


@contextmanager
def user_lock(name: str) -> Iterator[None]:
    """Let the user's processes on this machine do something one after another, such as preparing the same data."""
    user = os.getuid() if hasattr(os, "getuid") else getuser()  # whose lock others cannot write
    with lock(Path(gettempdir()) / f"lrflow-{name}-{user}.lock"):
        yield


def holder(path: Path) -> str | None:
    """The id of the process that holds a lock; None where no process does."""
    if not path.exists():
        return None
    from filelock import FileLock, Timeout

    held = FileLock(path, timeout=0)
    try:
        with held:
            return None
    except Timeout:
        return _read(path)
    except OSError:
        return None


def _part(path: Path) -> Path:
    """A name for a file that is being written."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _sync_folder(folder: Path) -> None:
    """Make a new name itself survive a power cut, where the system can sync a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _note(path: Path, holder: str) -> None:
    with suppress(OSError):  # a full disk: the lock itself holds
        path.write_text(holder)


def _read(path: Path) -> str:
    try:
        return path.read_text() or "unknown"
    except OSError:
        return "unknown"

"""The checksum that seals a checkpoint file: shows whether the file is whole without loading it, and without torch.

A checkpoint is torch's zip archive with a comment at its end: the words `lrflow sha256` and the SHA-256 of all bytes
before the comment, in hex. The archive's own checksums cover the contents of its members, but not its directory.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from pathlib import Path
from typing import Any

_SEAL = b"lrflow sha256 "
_SEAL_BYTES = len(_SEAL) + 64
_NO_COMMENT = b"\0\0"  # the end of an archive without a comment: the length 0
_SETTLED = 2e9
"""Nanoseconds after its last change from which on a file's times show whether it has changed again."""

_found: dict[Path, tuple[tuple[int, ...], str | None]] = {}  # the state of each file, and what is wrong with it


class HashingFile:
    """Hashes what is written to a file, and seals it.

    Args:
        file: open for writing in binary mode.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write data."""
        self._sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def seal(self) -> None:
        """Add the checksum to the archive that was written."""
        seal = _SEAL + self._sha256.hexdigest().encode()
        self._file.seek(-len(_NO_COMMENT), os.SEEK_END)
        self._file.write(len(seal).to_bytes(len(_NO_COMMENT), "little") + seal)


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, or None if it is whole.

    Reads all of the file, once per process: the answer for a file that has not changed is remembered.
    """
    try:
        status = path.stat()
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known, damage = _found.get(path, (None, None))
        if known != state:
            damage = _look_for_damage(path, status.st_size)
            if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED:
                _found[path] = state, damage
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return damage


def newest_undamaged(checkpoints: list[Path]) -> Path | None:
    """Return the last of some checkpoints that is whole, or None; it may still be no checkpoint of a run."""
    return next((path for path in reversed(checkpoints) if find_damage(path) is None), None)


def _look_for_damage(path: Path, size: int) -> str | None:
    if size == 0:
        return "is an empty file"
    with path.open("rb") as file:
        file.seek(max(size - _SEAL_BYTES, 0))
        seal = file.read()
        if not seal.startswith(_SEAL):
            return _find_archive_damage(path)
        found = _hash(file, size - _SEAL_BYTES - len(_NO_COMMENT))
    return None if found == seal[len(_SEAL) :].decode(errors="replace") else "is corrupted: its checksum does not match"


def _find_archive_damage(path: Path) -> str | None:
    """Return what is wrong with a file without lrflow's checksum, by the checksums of the zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception:  # a damaged directory makes zipfile raise many types of errors
        return "is cut short, or no checkpoint at all"
    return f"is corrupted (checksum of {broken})" if broken else None


def _hash(file: Any, size: int) -> str:
    """Return the SHA-256 of the archive without its comment, of which `size` bytes precede the comment's length."""
    sha256 = hashlib.sha256()
    file.seek(0)
    while size > 0 and (data := file.read(min(size, 1 << 20))):
        sha256.update(data)
        size -= len(data)
    sha256.update(_NO_COMMENT)
    return sha256.hexdigest()

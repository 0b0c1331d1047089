"""Checkpoint files: written whole or not at all, checked before they are read, never unpickled."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from lrflow.errors import LrflowError
from lrflow.files import write_whole
from lrflow.runs import checkpoints_in
from lrflow.training.plain_data import decode, encode

# A checkpoint is torch's zip archive with a comment at its end: this word and the SHA-256 of all that stands before
# it, in hex. The archive's own checksums cover its contents, but not where the reader is told to find them.
_SEAL = b"lrflow sha256 "
_SEAL_BYTES = len(_SEAL) + 64
_NO_COMMENT = b"\0\0"  # what the archive ends with: the comment's length


class BrokenCheckpointError(LrflowError):
    """A checkpoint file that is cut short, corrupted or no checkpoint at all."""

    def __init__(self, path: Path, reason: str) -> None:
        whole = newest_whole_checkpoint(path.parent, besides=path)
        offer = f"the newest whole one is {whole}" if whole else "there is no whole one beside it"
        super().__init__(f"{path}: {reason}\n    {offer}")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves through a temporary file in the same folder, synced before it takes the final name.

    A reader therefore never sees half a checkpoint, whatever kills the writer, and a full disk leaves the
    earlier ones untouched. Loading checks the file's checksum and takes plain data and tensors only.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            LrflowError: something in it could not be loaded again.
            OSError: the file cannot be written; nothing is left of the attempt.
        """
        content = encode(checkpoint)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, lambda file: _save(content, file))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint after checking that it is whole.

        Raises:
            BrokenCheckpointError: it is not; the newest whole one beside it is named.
        """
        return read_checkpoint(Path(path), map_location=map_location)


def read_checkpoint(path: Path, **options: Any) -> dict[str, Any]:
    """The content of a checkpoint that is whole.

    Args:
        path: the file.
        options: for `torch.load`, such as `mmap`.

    Raises:
        BrokenCheckpointError: it is not whole, or holds anything but plain data and tensors.
    """
    content, reason = _read(path, **options)
    if content is None:
        raise BrokenCheckpointError(path, reason)
    return content


def _read(path: Path, **options: Any) -> tuple[dict[str, Any] | None, str]:
    """The content of a checkpoint, or None and why it cannot be loaded."""
    if reason := what_is_broken(path):
        return None, reason
    try:
        content = torch.load(path, weights_only=True, **options)
        return (decode(content), "") if isinstance(content, dict) else (None, "is no checkpoint")
    except pickle.UnpicklingError:
        return None, "holds more than plain data and tensors, so it is not loaded"
    except Exception:  # torch's reader raises whatever it stumbles over
        return None, "is no checkpoint"


def what_is_broken(path: Path) -> str | None:
    """Why a file is no whole checkpoint, or None when it is one: all of it is read."""
    try:
        size = path.stat().st_size
        if size == 0:
            return "is an empty file"
        with path.open("rb") as file:
            file.seek(max(size - _SEAL_BYTES, 0))
            seal = file.read()
            if not seal.startswith(_SEAL):
                return _what_is_broken_in_archive(path)
            found = _hash(file, size - _SEAL_BYTES - len(_NO_COMMENT))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if found == seal[len(_SEAL) :].decode(errors="replace") else "is corrupted: its checksum does not match"


def newest_whole_checkpoint(folder: Path, besides: Path | None = None) -> Path | None:
    """The latest checkpoint in `folder` that loads, or None."""
    for path in reversed(checkpoints_in(folder)):
        if path != besides and _read(path, map_location="cpu", mmap=True)[0] is not None:
            return path
    return None


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _save(checkpoint: dict[str, Any], file: Any) -> None:
    hashing: Any = _Hashing(file)
    try:
        torch.save(checkpoint, hashing)
    except RuntimeError as error:
        # torch's archive writer turns a failed write into a RuntimeError of its own; a plain write says why.
        try:
            file.write(b"\0" * 65536)
            file.flush()
        except OSError as reason:
            raise reason from error
        raise
    seal = _SEAL + hashing.sha256.hexdigest().encode()
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    file.write(len(seal).to_bytes(len(_NO_COMMENT), "little") + seal)


def _hash(file: Any, size: int) -> str:
    """Of the archive as it was before the comment was added; `size` is what comes before the comment's length."""
    sha256 = hashlib.sha256()
    file.seek(0)
    while size > 0 and (data := file.read(min(size, 1 << 20))):
        sha256.update(data)
        size -= len(data)
    sha256.update(_NO_COMMENT)
    return sha256.hexdigest()


def _what_is_broken_in_archive(path: Path) -> str | None:
    """The same of a file that lrflow did not seal, or whose end is missing."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception:  # a damaged directory makes zipfile stumble in many ways
        return "is cut short, or no checkpoint at all"
    return f"is corrupted (checksum of {broken})" if broken else None

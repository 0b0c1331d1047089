"""Checkpoint files: written whole or not at all, checked before they are read, never unpickled."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from lrflow.errors import LrflowError


class BrokenCheckpointError(LrflowError):
    """A checkpoint file that is cut short, corrupted or no checkpoint at all."""

    def __init__(self, path: Path, reason: str) -> None:
        whole = newest_whole_checkpoint(path.parent, besides=path)
        offer = f"the newest whole one is {whole}" if whole else "there is no whole one beside it"
        super().__init__(f"{path}: {reason}\n    {offer}")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves through a temporary file in the same folder, synced before it takes the final name.

    A reader therefore never sees half a checkpoint, whatever kills the writer, and a full disk leaves the
    earlier ones untouched. Loading checks the file's checksums and takes plain data and tensors only.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: the file cannot be written; nothing is left of the attempt.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                _save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

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
        path = Path(path)
        if reason := what_is_broken(path):
            raise BrokenCheckpointError(path, reason)
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise BrokenCheckpointError(path, "holds more than plain data and tensors, so it is not loaded") from error


def what_is_broken(path: Path) -> str | None:
    """Why a file is no whole checkpoint, or None when it is one: its archive and every checksum in it are read."""
    try:
        if path.stat().st_size == 0:
            return "is an empty file"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except zipfile.BadZipFile:
        return "is cut short, or no checkpoint at all"
    return f"is corrupted (checksum of {broken})" if broken else None


def newest_whole_checkpoint(folder: Path, besides: Path | None = None) -> Path | None:
    """The latest checkpoint in `folder` that reads without an error, or None."""
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        if path != besides and what_is_broken(path) is None:
            return path
    return None


def _save(checkpoint: dict[str, Any], file: Any) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # torch's archive writer turns a failed write into a RuntimeError of its own; a plain write says why.
        try:
            file.write(b"\0" * 65536)
            file.flush()
        except OSError as reason:
            raise reason from error
        raise


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can sync a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)

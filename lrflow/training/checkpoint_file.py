"""Checkpoint files: written whole or not at all, checked before they are read, never unpickled.

What a checkpoint may hold: plain data and tensors. NumPy values are saved as tensors, and come back as they were.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import TorchCheckpointIO

from lrflow.errors import LrflowError
from lrflow.files import write_whole
from lrflow.runs import checkpoints_in

_NUMPY = "lrflow_numpy"
"""Key of a checkpoint: where NumPy values stood, as pairs of a path of keys and a dtype."""

_UNREAD = ("hyper_parameters", "hparams_type", "datamodule_hyper_parameters", "datamodule_hparams_type")
"""What Lightning adds to rebuild objects without a config; nothing here reads it."""

_PLAIN = {
    int, float, complex, bool, str, bytes, type(None),
    torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device,
}  # fmt: skip

_Path = tuple[Any, ...]
_Places = list[tuple[list[Any], str]]


def encode(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as it can be saved and loaded again; the one that is given is left as it is.

    Raises:
        LrflowError: something in it is neither plain data nor a tensor; every such key is named, with its type.
    """
    content: dict[str, Any] = {}
    places: _Places = []
    unfit: dict[_Path, Any] = {}
    for key, value in checkpoint.items():
        here: _Places = []
        lacking: dict[_Path, Any] = {}
        made = _encode(value, (key,), here, lacking)
        if not (lacking and key in _UNREAD):
            content[key] = made
            places += here
            unfit |= lacking
    if unfit:
        named = "\n".join(f"    {_format_path(path)}: {_format_type(value)}" for path, value in unfit.items())
        raise LrflowError(
            f"a checkpoint with this could not be loaded again, and is not saved:\n{named}\n"
            "    save numbers, text, lists, dictionaries, tensors or NumPy arrays instead"
        )
    return {**content, _NUMPY: places} if places else content


def decode(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that was read, with the NumPy values that were saved as tensors."""
    for path, dtype in content.pop(_NUMPY, ()):
        content = _restore_numpy(content, path, dtype)
    return content


def _encode(value: Any, path: _Path, places: _Places, unfit: dict[_Path, Any]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, np.generic) or kind is np.ndarray:
        made = _of_numpy(value)
        if made is None:
            unfit[path] = value
        else:
            places.append((list(path), f"{'scalar' if isinstance(value, np.generic) else 'array'} {value.dtype.str}"))
        return made
    if kind in (dict, OrderedDict):
        unfit |= {(*path, key): key for key in value if not isinstance(key, np.generic) and not _is_plain(key)}
        parts = {_key(key): _encode(part, (*path, _key(key)), places, unfit) for key, part in value.items()}
        if all(map(_is_same, parts, value)) and all(map(_is_same, parts.values(), value.values())):
            return value
        result = copy.copy(value)  # with the attribute that torch gives a state_dict
        result.clear()
        result.update(parts)
        return result
    if kind in (list, tuple):
        items = [_encode(part, (*path, index), places, unfit) for index, part in enumerate(value)]
        return value if all(map(_is_same, items, value)) else kind(items)
    if kind is set:
        value = {_key(part) for part in value}
    if not _is_plain(value):
        unfit[path] = value
    return value


def _of_numpy(value: Any) -> Any:
    """A NumPy array or scalar as a tensor, or as lists where torch has no such dtype; None: as neither."""
    try:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    except TypeError:
        made = value.tolist() if value.dtype.kind in "USmM" else None
        return made if _is_plain(made) else None


def _is_same(one: Any, other: Any) -> bool:
    return one is other


def _key(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key


def _is_plain(value: Any) -> bool:
    """Whether torch reads a value again; of less usual types it is tried."""
    return type(value) in _PLAIN or _survives_saving(value)


def _survives_saving(value: Any) -> bool:
    try:
        torch.save(value, file := io.BytesIO())
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # whatever its pickling raises
        return False
    return True


def _restore_numpy(holder: Any, path: Sequence[Any], dtype: str) -> Any:
    """A container of a checkpoint with the value at a path as NumPy's."""
    if not path:
        kind, _, code = dtype.partition(" ")
        array = np.asarray(holder.cpu().numpy() if isinstance(holder, torch.Tensor) else holder).astype(code)
        return array[()] if kind == "scalar" else array
    parts = list(holder) if isinstance(holder, tuple) else holder
    parts[path[0]] = _restore_numpy(parts[path[0]], path[1:], dtype)
    return tuple(parts) if isinstance(holder, tuple) else parts


def _format_path(path: _Path) -> str:
    return "checkpoint" + "".join(f'["{key}"]' if isinstance(key, str) else f"[{key!r}]" for key in path)


def _format_type(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} of {value.dtype}" if kind is np.ndarray else name


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
    if reason := find_damage(path):
        return None, reason
    try:
        content = torch.load(path, weights_only=True, **options)
        return (decode(content), "") if isinstance(content, dict) else (None, "is no checkpoint")
    except pickle.UnpicklingError:
        return None, "holds more than plain data and tensors, so it is not loaded"
    except Exception:  # torch's reader raises whatever it stumbles over
        return None, "is no checkpoint"


def find_damage(path: Path) -> str | None:
    """Why a file is no whole checkpoint, or None when it is one: all of it is read."""
    try:
        size = path.stat().st_size
        if size == 0:
            return "is an empty file"
        with path.open("rb") as file:
            file.seek(max(size - _SEAL_BYTES, 0))
            seal = file.read()
            if not seal.startswith(_SEAL):
                return _find_archive_damage(path)
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


class _HashingFile:
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
    hashing: Any = _HashingFile(file)
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


def _find_archive_damage(path: Path) -> str | None:
    """The same of a file that lrflow did not seal, or whose end is missing."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception:  # a damaged directory makes zipfile stumble in many ways
        return "is cut short, or no checkpoint at all"
    return f"is corrupted (checksum of {broken})" if broken else None

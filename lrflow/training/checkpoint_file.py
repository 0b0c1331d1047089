"""Reading and writing checkpoint files: atomic, with a checksum, plain data and tensors only.

NumPy values are saved as tensors and restored as NumPy values. Nothing is ever unpickled.
"""

from __future__ import annotations

import copy
import errno
import io
import json
import logging
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import TorchCheckpointIO

from lrflow.errors import LrflowError
from lrflow.files import write_whole
from lrflow.redaction import redact
from lrflow.runs import BEST, checkpoints_in
from lrflow.seal import HashingFile, find_damage

log = logging.getLogger("lrflow")

_NUMPY = "lrflow_numpy"
"""Key of a checkpoint that lists its NumPy values, as pairs of a path of keys and a dtype."""

_UNREAD = ("hyper_parameters", "hparams_type", "datamodule_hyper_parameters", "datamodule_hparams_type")
"""Keys that Lightning adds to rebuild objects without a config; lrflow does not read them."""

_PLAIN = {
    int, float, complex, bool, str, bytes, type(None),
    torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device,
}  # fmt: skip
_Path = tuple[Any, ...]
_Places = list[tuple[list[Any], str]]


class BrokenCheckpointError(LrflowError):
    """Raised for a checkpoint file that is cut short, corrupted or not a checkpoint.

    Args:
        path: the file.
        reason: what is wrong with it, after its name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        whole = newest_whole_checkpoint(path.parent, except_for=path)
        best = path.with_name(BEST)
        if whole is None and best != path and damage_of(best) is None:
            whole = best
        offer = f"the newest whole one is {whole}" if whole else "there is no whole one in its folder"
        super().__init__(f"{path}: {reason}\n    {offer}")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves to a temporary file in the same folder, syncs it and renames it; loads after checking the checksum.

    A reader never sees half a checkpoint, even if the writer is killed, and a full disk does not damage earlier
    checkpoints. Only plain data and tensors are loaded.

    Attributes:
        spare: returns the checkpoints that may be deleted where a new one finds no space, the first to go first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spare: Callable[[], Sequence[Path]] = tuple

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        If the disk is full, spare checkpoints are deleted, one after the other, until it can be written.

        Raises:
            LrflowError: a value in it could not be loaded again.
            OSError: the file cannot be written; no partial file remains.
        """
        content = encode(checkpoint)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        making_room(self.spare, lambda: write_whole(target, lambda file: _save(content, file)))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint after checking that it is whole.

        Raises:
            BrokenCheckpointError: the file is damaged; the message names the newest whole one in its folder.
        """
        return read_checkpoint(Path(path), map_location=map_location)


def making_room(spare: Callable[[], Sequence[Path]], write: Callable[[], object]) -> None:
    """Write, and where there is no space for it, delete spare files, one after the other, until there is.

    Args:
        spare: returns the files that may be deleted; called only if there is no space.
        write: writes a file.

    Raises:
        OSError: it cannot be written.
    """
    left: list[Path] | None = None
    while True:
        try:
            write()
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            left = list(spare()) if left is None else left
            if not left:
                raise
            log.warning("%s: %s; deleting %s", left[0].parent, error.strerror, left[0].name)
            left.pop(0).unlink(missing_ok=True)


def read_checkpoint(path: Path, **options: Any) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Args:
        path: the file.
        options: arguments of `torch.load`, such as `mmap`.

    Raises:
        BrokenCheckpointError: the file is damaged, or holds more than plain data and tensors.
    """
    content, reason = _read(path, **options)
    if content is None:
        raise BrokenCheckpointError(path, reason)
    return content


def step_in(path: Path) -> int | None:
    """Return the optimizer step of a checkpoint, or None if there is no file that can be loaded.

    The checksum is not compared, which would take as long as reading the whole file.
    """
    try:
        step = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"]
    except Exception:  # torch's reader raises many types of errors
        return None
    return step if isinstance(step, int) else None


def newest_whole_checkpoint(folder: Path, except_for: Path | None = None) -> Path | None:
    """Return the latest checkpoint in `folder` that can be loaded, or None."""
    for path in reversed(checkpoints_in(folder)):
        if path != except_for and damage_of(path) is None:
            return path
    return None


def damage_of(path: Path) -> str | None:
    """Return why a checkpoint cannot be loaded, or None if it can; its tensors stay on disk."""
    content, reason = _read(path, map_location="cpu", mmap=True)
    return reason if content is None else None


def _read(path: Path, **options: Any) -> tuple[dict[str, Any] | None, str]:
    """Return the content of a checkpoint, or None and the reason why it cannot be loaded."""
    if reason := find_damage(path):
        return None, reason
    try:
        content = torch.load(path, weights_only=True, **options)
        return (decode(content), "") if isinstance(content, dict) else (None, "is no checkpoint")
    except pickle.UnpicklingError:
        return None, "holds more than plain data and tensors, so it is not loaded"
    except Exception:  # torch's reader raises many types of errors
        return None, "is no checkpoint"


def _save(checkpoint: dict[str, Any], file: Any) -> None:
    hashing: Any = HashingFile(file)
    try:
        torch.save(checkpoint, hashing)
    except RuntimeError as error:
        # torch's archive writer turns a failed write into a RuntimeError; a plain write raises the OSError itself.
        try:
            file.write(b"\0" * 65536)
            file.flush()
        except OSError as reason:
            raise reason from error
        raise
    hashing.seal()


def encode(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a checkpoint in a form that can be saved and loaded.

    Raises:
        LrflowError: a value is neither plain data nor a tensor; the message lists each with its key and type.
    """
    content: dict[str, Any] = {}
    places: _Places = []
    unfit: dict[_Path, Any] = {}
    for key, value in _with_config(checkpoint, _as_text).items():
        numpy_values: _Places = []
        rejected: dict[_Path, Any] = {}
        encoded = _encode(redact(value) if key in _UNREAD else value, (key,), numpy_values, rejected)
        if not (rejected and key in _UNREAD):
            content[key] = encoded
            places += numpy_values
            unfit |= rejected
    if unfit:
        listed = "\n".join(f"    {_format_path(path)}: {_format_type(value)}" for path, value in unfit.items())
        raise LrflowError(
            f"the checkpoint is not saved, because these values could not be loaded again:\n{listed}\n"
            "    save numbers, text, lists, dictionaries, tensors or NumPy arrays instead"
        )
    return {**content, _NUMPY: places} if places else content


def decode(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint that was read, with its config and its NumPy values restored."""
    content = _with_config(content, lambda config: json.loads(config) if isinstance(config, str) else config)
    for path, dtype in content.pop(_NUMPY, ()):
        content = _restore_numpy(content, path, dtype)
    return content


def _with_config(checkpoint: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a checkpoint with another form of the config in it, if it holds one."""
    own = checkpoint.get("lrflow")
    if not isinstance(own, dict) or "config" not in own:
        return checkpoint
    return {**checkpoint, "lrflow": {**own, "config": change(own["config"])}}


def _as_text(config: Any) -> Any:
    """Return a config as text, which is saved in a tenth of the time that its hundreds of values take."""
    try:
        text = json.dumps(config)
    except (TypeError, ValueError):
        return config
    return text if json.loads(text) == config else config


def _encode(value: Any, path: _Path, places: _Places, unfit: dict[_Path, Any]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, np.generic) or kind is np.ndarray:
        encoded = _encode_numpy(value)
        if encoded is None:
            unfit[path] = value
        else:
            places.append((list(path), f"{'scalar' if isinstance(value, np.generic) else 'array'} {value.dtype.str}"))
        return encoded
    if kind in (dict, OrderedDict):
        unfit |= {(*path, key): key for key in value if not isinstance(key, np.generic) and not _is_plain(key)}
        parts = {_key(key): _encode(part, (*path, _key(key)), places, unfit) for key, part in value.items()}
        if all(map(_is_same, parts, value)) and all(map(_is_same, parts.values(), value.values())):
            return value
        result = copy.copy(value)  # keeps the attribute that torch adds to a state_dict
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


def _encode_numpy(value: Any) -> Any:
    """Return a NumPy value as a tensor, or as lists if torch has no such dtype; None if neither is possible."""
    try:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    except TypeError:
        lists = value.tolist() if value.dtype.kind in "USmM" else None
        return lists if _is_plain(lists) else None


def _restore_numpy(holder: Any, path: Sequence[Any], dtype: str) -> Any:
    """Return a container of a checkpoint with the value at `path` restored to a NumPy value."""
    if not path:
        kind, _, code = dtype.partition(" ")
        array = np.asarray(holder.cpu().numpy() if isinstance(holder, torch.Tensor) else holder).astype(code)
        return array[()] if kind == "scalar" else array
    parts = list(holder) if isinstance(holder, tuple) else holder
    parts[path[0]] = _restore_numpy(parts[path[0]], path[1:], dtype)
    return tuple(parts) if isinstance(holder, tuple) else parts


def _is_plain(value: Any) -> bool:
    """Whether torch loads a value with `weights_only=True`; less usual types are tried out."""
    return type(value) in _PLAIN or _survives_saving(value)


def _survives_saving(value: Any) -> bool:
    try:
        torch.save(value, file := io.BytesIO())
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # pickling raises many types of errors
        return False
    return True


def _is_same(one: Any, other: Any) -> bool:
    return one is other


def _key(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key


def _format_path(path: _Path) -> str:
    return "checkpoint" + "".join(f'["{key}"]' if isinstance(key, str) else f"[{key!r}]" for key in path)


def _format_type(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} of {value.dtype}" if kind is np.ndarray else name

"""What a checkpoint may hold: plain data and tensors. NumPy values are saved as tensors, and come back as they were."""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lrflow.errors import LrflowError

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
        named = "\n".join(f"    {_spell(path)}: {_type(value)}" for path, value in unfit.items())
        raise LrflowError(
            f"a checkpoint with this could not be loaded again, and is not saved:\n{named}\n"
            "    save numbers, text, lists, dictionaries, tensors or NumPy arrays instead"
        )
    return {**content, _NUMPY: places} if places else content


def decode(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that was read, with the NumPy values that were saved as tensors."""
    for path, dtype in content.pop(_NUMPY, ()):
        content = _replace(content, path, dtype)
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
        if all(map(_same, parts, value)) and all(map(_same, parts.values(), value.values())):
            return value
        result = copy.copy(value)  # with the attribute that torch gives a state_dict
        result.clear()
        result.update(parts)
        return result
    if kind in (list, tuple):
        items = [_encode(part, (*path, index), places, unfit) for index, part in enumerate(value)]
        return value if all(map(_same, items, value)) else kind(items)
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


def _same(one: Any, other: Any) -> bool:
    return one is other


def _key(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key


def _is_plain(value: Any) -> bool:
    """Whether torch reads a value again; of less usual types it is tried."""
    return type(value) in _PLAIN or _loads(value)


def _loads(value: Any) -> bool:
    try:
        torch.save(value, file := io.BytesIO())
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # whatever its pickling raises
        return False
    return True


def _replace(holder: Any, path: Sequence[Any], dtype: str) -> Any:
    """A container of a checkpoint with the value at a path as NumPy's."""
    if not path:
        kind, _, code = dtype.partition(" ")
        array = np.asarray(holder.cpu().numpy() if isinstance(holder, torch.Tensor) else holder).astype(code)
        return array[()] if kind == "scalar" else array
    parts = list(holder) if isinstance(holder, tuple) else holder
    parts[path[0]] = _replace(parts[path[0]], path[1:], dtype)
    return tuple(parts) if isinstance(holder, tuple) else parts


def _spell(path: _Path) -> str:
    return "checkpoint" + "".join(f'["{key}"]' if isinstance(key, str) else f"[{key!r}]" for key in path)


def _type(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} of {value.dtype}" if kind is np.ndarray else name

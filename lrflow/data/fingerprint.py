"""A fingerprint of the data of a run, of what is cheap to know, so that a resumed run can report data that changed.

No example is loaded, since that may be slow and random: it reads what the data sets hold. Data in memory is hashed, a
large array at evenly spaced rows; of files, the sizes, the times and the beginnings are taken. Streams are left out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, IterableDataset

_WHOLE = 1 << 24
"""Bytes up to which an array is hashed as a whole."""
_SAMPLES = 64
"""Rows of a larger array, or files of a list, that are looked at."""
_BEGINNING = 1 << 16
"""Bytes that are read of the first and the last file."""
_DEPTH = 4
"""Data sets within data sets, and attributes within these, that are followed."""
_PARTS = {"train": "train_dataloader", "val": "val_dataloader"}

Fingerprint = dict[str, dict[str, str]]
"""Of each loader, by part and number (`train`, `val 1`): what is known of its data set."""


def fingerprint(data: pl.LightningDataModule) -> Fingerprint:
    """Return the fingerprint of the training and validation data.

    Args:
        data: set up for training. One that saves its own state (`load_state_dict`) is left out.
    """
    found: Fingerprint = {}
    if is_overridden("load_state_dict", data):
        return found
    for part, method in _PARTS.items():
        if not is_overridden(method, data):  # Lightning's own raises: this data module has no such loader
            continue
        loaders = [one for one in tree_leaves(getattr(data, method)()) if isinstance(one, DataLoader)]
        for number, loader in enumerate(loaders):
            if not isinstance(loader.dataset, IterableDataset):
                name = part if len(loaders) == 1 else f"{part} {number}"
                found[name] = _of_dataset(loader.dataset)
    return found


def changes_of_data(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return how the data changed, a phrase per loader; loaders and facts that only one of the two knows are left out.

    Args:
        before: fingerprint of the run that is resumed.
        now: fingerprint of the data now.
    """
    changes = []
    for name in (name for name in now if name in before):
        was, is_now = before[name], now[name]
        different = [fact for fact in is_now if was.get(fact, is_now[fact]) != is_now[fact]]
        if "examples" in different:
            changes.append(f"{name} has {is_now['examples']} examples instead of {was['examples']}")
        elif different:
            changes.append(f"{name}: other {' and '.join(different)}")
    return changes


def _of_dataset(dataset: Dataset[Any]) -> dict[str, str]:
    facts: dict[str, str] = {}
    with suppress(TypeError, NotImplementedError):
        facts["examples"] = str(len(dataset))  # type: ignore[arg-type]
    values, sizes, times = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    has_values = has_files = False
    for held in _held(dataset, _DEPTH):
        if isinstance(held, torch.Tensor):
            has_values |= _add_tensor(values, held)
        elif isinstance(held, np.ndarray):
            has_values |= _add_rows(values, held)
        elif files := _files_in(held):
            has_files = True
            _add_files(files, values, sizes, times)
        else:
            has_values = True
            values.update(repr((len(held), [held[index] for index in _spread(len(held))])).encode())
    if has_values or has_files:
        facts["values"] = values.hexdigest()
    if has_files:
        facts["file sizes"], facts["file times"] = sizes.hexdigest(), times.hexdigest()
    return facts


def _held(dataset: object, depth: int) -> Iterator[Any]:
    """Return the arrays, and the lists of paths, numbers or texts, that a data set and those within it hold."""
    attributes = getattr(dataset, "__dict__", {})
    for name in sorted(attributes):
        yield from _within(attributes[name], depth)


def _within(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, torch.Tensor | np.ndarray):
        yield value
    elif isinstance(value, list | tuple) and value:
        if all(isinstance(value[index], Dataset | torch.Tensor | np.ndarray) for index in _spread(len(value))):
            for part in value if len(value) <= _SAMPLES else (value[index] for index in _spread(len(value))):
                yield from _within(part, depth - 1)
        elif all(_is_plain(value[index]) for index in _spread(len(value))):
            yield value
    elif isinstance(value, Dataset) and depth > 0:
        yield from _held(value, depth - 1)


def _is_plain(value: Any) -> bool:
    """Whether it is text, a path or a number, or a tuple of these, such as the path of an image and its class."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | Path | int | float | bytes | np.generic)


def _spread(count: int) -> list[int]:
    """Return indices from the first to the last, evenly spaced, at most `_SAMPLES`."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, _SAMPLES))}) if count else []


def _add_tensor(values: Any, tensor: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    tensor = tensor.detach()
    what = f"{tensor.dtype} {tuple(tensor.shape)}"
    if tensor.nbytes > _WHOLE and tensor.ndim:
        tensor = tensor[_spread(len(tensor))]
    try:
        content = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
    except (RuntimeError, TypeError):  # such as a quantized tensor
        return False
    values.update(what.encode())
    values.update(content)
    return True


def _add_rows(values: Any, array: np.ndarray) -> bool:
    if array.dtype.hasobject:
        return False
    values.update(f"{array.dtype} {array.shape}".encode())
    if array.nbytes > _WHOLE and array.ndim:
        array = array[_spread(len(array))]  # of a file that is mapped into memory, only these rows are read
    values.update(np.ascontiguousarray(array).tobytes())
    return True


def _files_in(held: Sequence[Any]) -> list[Path]:
    """Return some files of a list of paths, or of tuples that begin with one; empty if it is no such list."""
    first = [
        held[index][0] if isinstance(held[index], tuple) and held[index] else held[index]
        for index in _spread(len(held))
    ]
    if not all(isinstance(one, str | Path) for one in first):
        return []
    paths = [Path(one) for one in first]
    try:
        return paths if all(path.is_file() for path in paths[:1] + paths[-1:]) else []
    except (OSError, ValueError):  # a text that is no path
        return []


def _add_files(files: Sequence[Path], values: Any, sizes: Any, times: Any) -> None:
    for number, path in enumerate(files):
        try:
            status = os.stat(path)
            if number in (0, len(files) - 1):
                with path.open("rb") as file:
                    values.update(file.read(_BEGINNING))
        except OSError:
            continue
        sizes.update(f"{path.name} {status.st_size}".encode())
        times.update(f"{status.st_mtime_ns}".encode())

"""The inputs of samples in shards as arrays of one shape: read where they lie, decoded, and checked."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrflow.data.images.decoding import Form, decode
from lrflow.data.stream.parquet import Columns, open_parquet, read_group
from lrflow.data.stream.tar import File, name_at, value_in
from lrflow.errors import ExampleError, shortened
from lrflow.wording import shape_text

_OPEN = 64
"""Tar files that a process keeps open."""


@dataclass(frozen=True)
class Input:
    """What an input is, the same for all samples.

    Args:
        form: of images; None: arrays of numbers.
        shape: of an input.
        dtype: `uint8` of images, `float32` or `int64` of arrays.
    """

    form: Form | None
    shape: tuple[int, ...] = ()
    dtype: str = "float32"

    @classmethod
    def of(cls, layout: dict[str, Any]) -> Input:
        """Return what a layout describes, as `plain` returns it."""
        own = {key: value for key, value in layout.items() if key != "kind"}
        return cls.image(Form(**own)) if layout["kind"] == "image" else cls(None, tuple(own["shape"]), own["dtype"])

    @classmethod
    def image(cls, form: Form) -> Input:
        """Return images of this form, as bytes."""
        return cls(form, form.shape, "uint8")

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        if self.form is not None:
            return {"kind": "image", **vars(self.form)}
        return {"kind": "array", "shape": list(self.shape), "dtype": self.dtype}


@dataclass(frozen=True, eq=False)
class Places:
    """Where samples lie.

    Args:
        paths: of the shards.
        shard: of each sample, its shard; int32 [samples].
        unit: of each sample, the number of what is read together with it, a tar file or a row group; int32 [samples].
        place: int64 [samples, 2]: offset and size of the input in a tar file; row group, and row in it.
    """

    paths: list[str]
    shard: np.ndarray
    unit: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def at(self, rows: np.ndarray) -> Places:
        """The places of some samples."""
        return Places(self.paths, self.shard[rows], self.unit[rows], self.place[rows])


class Reader:
    """Reads inputs of samples; each process opens the shards for itself.

    Args:
        source: which file or which columns are the input.
        held: row groups of Parquet files that are kept in memory.
    """

    def __init__(self, source: File | Columns, held: int) -> None:
        self.source, self._held = source, held
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": OrderedDict()}

    def raw(self, places: Places, row: int) -> Any:
        """Return an input as its shard has it: bytes, or an array.

        Raises:
            ValueError: it cannot be read; the message says why.
            ExampleError: the shard is gone.
        """
        path = places.paths[places.shard[row]]
        first, second = places.place[row].tolist()
        if isinstance(self.source, File):
            try:
                return self._of_tar(path, first, second)
            except OSError as error:
                raise ExampleError(f"{path} cannot be read any more: {error.strerror or error}") from error
        value = self.group(path, first)[second]
        if self.source.kind == "array":
            return value
        if (content := value.as_py()) is None:
            raise ValueError("is null")
        return content

    def group(self, path: str, number: int) -> Any:
        """Return the inputs of a row group of a Parquet file; to index those of one that cannot be read raises."""
        try:
            return self._cached((path, number), self._held)
        except OSError as error:
            raise ExampleError(f"{path} cannot be read any more: {error.strerror or error}") from error

    def _of_tar(self, path: str, offset: int, size: int) -> Any:
        assert isinstance(self.source, File)
        file = self._cached(path, _OPEN)
        file.seek(offset)
        content = file.read(size)
        if len(content) < size:
            raise ValueError("is cut off")
        if self.source.kind == "image":
            return content
        if self.source.kind == "json":
            return np.array(value_in(content, self.source.keys))
        try:
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # of a damaged header; a wrong shape in it needs more memory than there is
            raise ValueError(f"is no array: {shortened(str(error), 80)}") from None

    def _cached(self, key: Any, most: int) -> Any:
        """Return an open file, or the inputs of a row group; those that were used last are kept."""
        if self._process != os.getpid():  # files that were opened before a fork have one position in both processes
            self._kept, self._process = OrderedDict(), os.getpid()
        if key in self._kept:
            self._kept.move_to_end(key)
            found = self._kept[key]
        else:
            while len(self._kept) >= most:
                _, old = self._kept.popitem(last=False)
                if isinstance(key, str):
                    old.close()
            if isinstance(key, str):
                found = open(key, "rb", buffering=0)  # noqa: SIM115  # closed when another one takes its place
            else:
                assert isinstance(self.source, Columns)
                try:
                    found = read_group(open_parquet(key[0]), key[1], self.source)
                except ValueError as error:
                    found = _Broken(str(error))
            self._kept[key] = found
        return found

    def read(self, places: Places, row: int, of: Input) -> np.ndarray:
        """Return an input as an array.

        Raises:
            ValueError: it cannot be read, or is no such input; the message says why.
            ExampleError: the shard is gone.
        """
        value = self.raw(places, row)
        if of.form is not None:
            return decode(value, of.form)
        return as_array(value, of)

    def name(self, places: Places, row: int) -> str:
        """Return the shard of a sample and its name there, for a message."""
        path = places.paths[places.shard[row]]
        first, second = places.place[row].tolist()
        if isinstance(self.source, File):
            return f"{path}: {name_at(path, first)}"
        try:
            metadata = open_parquet(path).metadata
            before = sum(metadata.row_group(number).num_rows for number in range(first))
        except ValueError:
            return path
        return f"{path}: row {before + second + 1:,}"


class _Broken:
    """A row group that cannot be read."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __getitem__(self, row: int) -> Any:
        raise ValueError(self._message)


def as_array(value: Any, of: Input) -> np.ndarray:
    """Return an input in the shape and type that all inputs have.

    Raises:
        ValueError: it has another shape, or no numbers.
    """
    if value.dtype.kind not in "biuf":
        raise ValueError(f"holds {value.dtype}, and no numbers")
    if value.shape != of.shape:
        raise ValueError(f"has the shape {shape_text(value.shape)} instead of {shape_text(of.shape)}")
    if of.dtype == "int64" and value.dtype.kind == "f":
        raise ValueError("holds numbers that are not whole, unlike the first samples")
    with np.errstate(over="ignore"):
        found = value.astype(of.dtype)
    if not np.isfinite(found).all():
        raise ValueError("holds numbers that are missing or infinite")
    return found


def read_some(
    reader: Reader, places: Places, rows: Sequence[int] | np.ndarray, of: Input
) -> tuple[np.ndarray, dict[int, str]]:
    """Return the inputs of some samples.

    Args:
        reader: of the shards.
        places: of all samples.
        rows: which of them.
        of: what an input is.

    Returns:
        The inputs [rows, ...]; those that cannot be read have arbitrary values. And why, by their place in `rows`.
    """
    found = np.empty((len(rows), *of.shape), of.dtype)
    wrong: dict[int, str] = {}
    if isinstance(reader.source, Columns) and of.form is None:
        rest = _read_groups(reader, places, np.asarray(rows), of, found)
    else:
        rest = list(enumerate(rows))
    for place, row in rest:
        try:
            found[place] = reader.read(places, int(row), of)
        except ValueError as error:
            wrong[place] = str(error)
    return found, wrong


def _read_groups(
    reader: Reader, places: Places, rows: np.ndarray, of: Input, found: np.ndarray
) -> list[tuple[int, int]]:
    """Read rows of numbers, those of a row group at once.

    Args:
        found: gets their values.

    Returns:
        The samples that do not fit, as their places in `rows` and their indices; to be read one by one.
    """
    keys = places.shard[rows].astype(np.int64) << 32 | places.place[rows, 0]  # of the row groups
    row = places.place[rows, 1]
    fits = np.zeros(len(rows), bool)
    for key in np.unique(keys).tolist():
        some = np.flatnonzero(keys == key)
        content = reader.group(places.paths[key >> 32], key & (2**32 - 1))
        if isinstance(content, np.ndarray) and content.shape[1:] == of.shape and content.dtype.kind in "biuf":
            if of.dtype == "int64" and content.dtype.kind == "f":
                continue
            with np.errstate(over="ignore"):
                found[some] = content[row[some]]
            fits[some] = np.isfinite(found[some]).reshape(len(some), -1).all(1)
    return [(int(place), int(rows[place])) for place in np.flatnonzero(~fits)]

"""Samples in Parquet shards: their columns, counted by the files' own metadata and read by row groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.listing import Misfit
from lrflow.data.stream.tar import DAMAGED, TARGETS
from lrflow.errors import ConfigError, Problem, did_you_mean

_NAMES = ("label", "labels", "target", "cls", "class", "y")
"""Columns of which one is the target if the config names none."""
OTHER = "shards with other columns"


@dataclass(frozen=True)
class Columns:
    """The columns of a shard that a training reads.

    Args:
        names: of the inputs.
        target: of the target; None: only inputs are read.
        kind: `image`: one column of files as bytes; `array`: numbers, or lists of numbers.
        types: of each of them, as text; all shards have the same.
    """

    names: tuple[str, ...]
    target: str | None
    kind: str
    types: dict[str, str] = field(default_factory=dict)


def open_parquet(path: str | Path) -> Any:
    """Return a Parquet file, opened.

    Raises:
        ValueError: it is none, or is cut off; the message says why.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise ValueError(f"cannot be read: {str(error).partition(chr(10))[0]}") from None


def choose_columns(
    paths: Sequence[Path], source: str | Sequence[str] | None, target: str | None
) -> tuple[Columns, str]:
    """Return the columns that are read, and the name of the target, by the first shard that can be read.

    Args:
        paths: of the shards.
        source: name of the input, or names; None: a column of images, or one of lists, or all columns of numbers.
        target: name of the target; None: `label`, `target` or the like.

    Raises:
        ConfigError: there are no such columns, or they hold something else.
    """
    problems: list[Problem] = []
    for path in paths:
        try:
            schema = open_parquet(path).schema_arrow
            break
        except ValueError as error:
            problems.append(Problem("data.shards", f"{path}: {error}", str(path)))
    else:
        raise ConfigError(problems[:1])
    kinds = {field.name: _kind(field.type) for field in schema}
    problems = []
    label = target
    if target is None:
        label = next((name for name in _NAMES if name in kinds), None)
    if label is None or label not in kinds:
        hint = did_you_mean(label, kinds) if label else f"the columns are {', '.join(kinds)}"
        problems.append(Problem("data.target", "expected a column of classes or of numbers", target, hint))
    elif kinds[label] not in ("number", "text"):
        message = f"has the type {schema.field(label).type}; expected classes or numbers"
        problems.append(Problem("data.target", message, label))
    given = [source] if isinstance(source, str) else list(source or ())
    for name in given:
        if name not in kinds:
            problems.append(Problem("data.input", f"{path} has no such column", name, did_you_mean(name, kinds)))
        elif kinds[name] not in ("number", "list", "image"):
            message = f"has the type {schema.field(name).type}; expected an image, numbers or lists of numbers"
            problems.append(Problem("data.input", message, name))
    if not given and label is not None:
        for kind in ("image", "list", "number"):
            given = given or [name for name, of in kinds.items() if of == kind and name != label]
        if not given or (len(given) > 1 and kinds[given[0]] != "number"):
            message = f"several columns could be the input: {', '.join(given)}" if given else "no column is an input"
            problems.append(Problem("data.input", message, source, f"the columns are {', '.join(kinds)}"))
    if not problems and len(given) > 1 and any(kinds[name] != "number" for name in given):
        problems.append(Problem("data.input", "expected one column, or several of numbers", given))
    if not problems and label in given:
        problems.append(Problem("data.input", "is the target too", label))
    if problems or label is None:
        raise ConfigError(problems)
    types = {name: str(schema.field(name).type) for name in [*given, label]}
    return Columns(tuple(given), label, "image" if kinds[given[0]] == "image" else "array", types), label


def _kind(of: Any) -> str:
    from pyarrow import types

    if types.is_integer(of) or types.is_floating(of) or types.is_boolean(of):
        return "number"
    if types.is_binary(of) or types.is_large_binary(of):
        return "image"
    if types.is_struct(of) and of.get_field_index("bytes") >= 0:  # images as Hugging Face's `datasets` writes them
        return "image"
    if types.is_string(of) or types.is_large_string(of) or types.is_dictionary(of):
        return "text"
    while types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
        of = of.value_type
        if types.is_integer(of) or types.is_floating(of) or types.is_boolean(of):
            return "list"
    return str(of)


def index_parquet(path: Path, columns: Columns) -> tuple[list[int], Any, np.ndarray, list[Misfit]]:
    """Return the rows of a shard that have a target, or all if none is read.

    Args:
        path: of the shard.
        columns: that it should have.

    Returns:
        The number of rows of each row group; the targets, a column of Arrow; the rows that have one; the mistakes.
    """
    import pyarrow
    from pyarrow import compute

    empty: tuple[list[int], Any, np.ndarray] = ([], None, np.empty(0, np.int64))
    where = str(path)
    try:
        file = open_parquet(path)
        schema = file.schema_arrow
        wrong = []
        for name, expected in columns.types.items():
            if schema.get_field_index(name) < 0:
                wrong.append(f"has no column {name}")
            elif str(schema.field(name).type) != expected:
                wrong.append(f"its column {name} has the type {schema.field(name).type}, in the first shard {expected}")
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        if wrong:
            return *empty, [Misfit(where, "; ".join(wrong), OTHER, max(1, sum(groups)))]
        if columns.target is None:
            return groups, None, np.arange(sum(groups)), []
        targets = file.read([columns.target], use_threads=False)[columns.target].combine_chunks()
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        return *empty, [Misfit(where, str(error).partition("\n")[0], DAMAGED)]
    absent = targets.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if pyarrow.types.is_floating(targets.type):
        absent |= compute.is_inf(targets.fill_null(0)).to_numpy(zero_copy_only=False)
    mistakes = []
    if absent.any():
        message = f"row {int(np.flatnonzero(absent)[0]) + 1:,} has no {columns.target}"
        mistakes.append(Misfit(where, message, TARGETS, int(absent.sum())))
    rows = np.flatnonzero(~absent)
    return groups, targets.take(pyarrow.array(rows)), rows, mistakes


def read_group(file: Any, group: int, columns: Columns) -> Any:
    """Return the inputs of a row group: an array [rows, ...] of numbers, or a column of images as bytes.

    Raises:
        ValueError: it cannot be read, or lists have different lengths.
    """
    import pyarrow
    from pyarrow import types

    try:
        table = file.read_row_group(group, list(columns.names), use_threads=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"its row group {group + 1} cannot be read: {str(error).partition(chr(10))[0]}") from None
    found = [table[name].combine_chunks() for name in columns.names]
    if columns.kind == "image":
        return found[0].field("bytes") if types.is_struct(found[0].type) else found[0]
    arrays = [_numbers(one, name) for one, name in zip(found, columns.names, strict=True)]
    return arrays[0] if len(arrays) == 1 and arrays[0].ndim > 1 else np.stack(arrays, 1)


def _numbers(values: Any, name: str) -> np.ndarray:
    """Return numbers, or lists of equal lengths, as an array [rows, ...]; NaN where a number or a list is none.

    Raises:
        ValueError: lists within lists have different lengths.
    """
    import pyarrow
    from pyarrow import compute, types

    shape: list[int] = []
    kept = np.ones(len(values), bool)  # rows whose list is as long as most of them
    while types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        lengths = compute.list_value_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
        found, counts = np.unique(lengths[lengths >= 0], return_counts=True)
        length = int(found[counts.argmax()]) if len(found) else 0
        if not shape:
            kept = lengths == length
            values = values.filter(pyarrow.array(kept))
        elif (lengths != length).any():
            raise ValueError(f"its column {name} has lists of different lengths within a list")
        shape.append(length)
        values = values.flatten()
    if values.null_count or types.is_boolean(values.type):
        values = values.cast(pyarrow.float64())
    numbers = values.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    if kept.all():
        return numbers
    whole = np.full((len(kept), *shape), np.nan)
    whole[kept] = numbers
    return whole

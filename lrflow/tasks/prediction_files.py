"""Files of `task=predict`: inputs of the user's own that are read, and tables of predictions that are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrflow.data import DataModule
from lrflow.errors import ConfigError, Problem, shortened
from lrflow.files import did_you_mean_path, is_file, is_folder, write_whole
from lrflow.wording import shape_text

Arrays = dict[str, np.ndarray[Any, Any]]

KEY = "task.inputs"


@dataclass(frozen=True)
class InputFile:
    """A file of inputs.

    Args:
        path: the file.
        inputs: [examples, *shape of one input].
    """

    path: Path
    inputs: np.ndarray[Any, Any]

    @property
    def identity(self) -> tuple[str, int, int]:
        """Name, size and time of the file, by which a changed one is noticed."""
        stat = self.path.stat()
        return self.path.name, stat.st_size, stat.st_mtime_ns


def read_inputs(given: str, example: Any, data: object = None) -> list[InputFile]:
    """Read the inputs in a file, or in all files of a folder in the order of their names.

    Args:
        given: `task.inputs`.
        example: a batch of the inputs that the model was trained on.
        data: the data module of the training, which may have files of its own kind.

    Raises:
        ConfigError: every file that cannot be read, or whose inputs have another shape.
    """
    path = Path(given)
    if not isinstance(example, Tensor):
        message = f"needs a model of one tensor; this one gets {type(example).__name__}"
        raise ConfigError([Problem(KEY, message, given, "task.split predicts a part of the data")])
    own = data if isinstance(data, DataModule) and data.file_types else None
    known = own.file_types if own else tuple(READERS)
    if is_folder(path):
        paths = sorted(
            one for one in path.iterdir()
            if one.suffix.lower() in known and not one.name.startswith(".") and is_file(one)
        )  # fmt: skip
        if not paths:
            raise ConfigError([Problem(KEY, f"the folder has no file of {', '.join(known)}", given)])
    elif is_file(path):
        paths = [path]
    else:
        raise ConfigError([Problem(KEY, "there is no such file or folder", given, did_you_mean_path(path))])
    if own:
        return [InputFile(one, inputs.numpy()) for one, inputs in zip(paths, own.read_all(paths, KEY), strict=True)]
    shape = tuple(example.shape[1:])
    files, problems = [], []
    for one in paths:
        try:
            files.append(InputFile(one, _shaped(_read(one), shape)))
        except ValueError as error:
            problems.append(Problem(KEY, str(error), str(one)))
    if problems:
        raise ConfigError(problems)
    return files


def _read(path: Path) -> np.ndarray[Any, Any]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"expected a file of {', '.join(READERS)}")
    try:
        found = reader(path)
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot be read: {shortened(str(error), 120)}") from error
    except Exception as error:  # torch's and zipfile's readers raise many types
        raise ValueError("cannot be read: it holds more than plain numbers, or is damaged") from error
    if found.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers, found {found.dtype}")
    return found


def _shaped(found: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return inputs in the model's shape; rows of as many numbers are reshaped."""
    if found.shape[1:] == shape and found.ndim:
        return found
    if found.ndim == 2 and found.shape[1] == int(np.prod(shape)):
        return found.reshape(len(found), *shape)
    expected = f"examples x {shape_text(shape)}"
    raise ValueError(f"expected inputs of shape {expected}, found {shape_text(found.shape)}")


def _npz(path: Path) -> np.ndarray[Any, Any]:
    with np.load(path, allow_pickle=False) as content:
        names = list(content)
        if "inputs" in names:
            return content["inputs"]
        if len(names) != 1:
            raise ValueError(f"expected an array named inputs, found {', '.join(names[:5]) or 'none'}")
        return content[names[0]]


def _csv(path: Path) -> np.ndarray[Any, Any]:
    """Read rows of numbers, with or without a line of names above them."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        rows = [(reader.line_num, row) for row in reader if row]
    numbers: list[list[float]] = []
    for line, row in rows:
        try:
            numbers.append([float(cell) for cell in row])
        except ValueError as error:
            if line > rows[0][0]:
                raise ValueError(f"line {line} is not all numbers") from error
    if not numbers:
        raise ValueError("has no line of numbers")
    if len({len(row) for row in numbers}) > 1:
        raise ValueError("its lines have different numbers of columns")
    return np.array(numbers, dtype=np.float32).reshape(len(numbers), -1)


def _pt(path: Path) -> np.ndarray[Any, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    found = content.get("inputs") if isinstance(content, Mapping) else content
    if not isinstance(found, Tensor):
        raise ValueError("expected a tensor, or a dictionary with a tensor named inputs")
    return found.detach().numpy()


READERS: dict[str, Callable[[Path], np.ndarray[Any, Any]]] = {
    ".npy": lambda path: np.load(path, mmap_mode="r", allow_pickle=False),
    ".npz": _npz,
    ".csv": _csv,
    ".pt": _pt,
}
"""How inputs are read, by the ending of the file; nothing is unpickled."""


def save_arrays(file: Any, arrays: Arrays) -> None:
    """Write arrays into a .npz file."""
    save: Any = np.savez
    save(file, **arrays)


def write_table(arrays: Arrays, path: Path, to: str, classes: Sequence[str] = ()) -> int:
    """Write predictions atomically, with a column `row` that counts the examples from 0.

    Args:
        arrays: one row per example; a table has a column per element of a row.
        path: the file.
        to: `csv`, `npz` or `parquet`.
        classes: names of the classes, for the columns of their probabilities; empty: their numbers. A .npz file holds
            them as `classes`.

    Returns:
        The number of rows.
    """
    rows = len(next(iter(arrays.values())))
    if to == "npz":
        named = {"classes": np.array(classes)} if classes else {}
        write_whole(path, lambda file: save_arrays(file, {**arrays, **named}))
        return rows
    columns: dict[str, np.ndarray[Any, Any]] = {"row": np.arange(rows)}
    for name, values in arrays.items():
        if values.ndim == 1:
            columns[name] = values
        else:
            known = classes if name == "probability" and len(classes) == values.shape[1] else range(values.shape[1])
            columns |= {f"{name}_{which}": values[:, index] for index, which in enumerate(known)}
    if to == "parquet":
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table(columns)
        write_whole(path, lambda file: parquet.write_table(table, file))
        return rows
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(map(str, values) for values in columns.values()), strict=True))
    write_whole(path, text.getvalue().encode())
    return rows

"""The series of a run, as its metrics.csv records them; also of a run that is going on or was killed."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lrflow.metric import Metric
from lrflow.schedules.time import Floats

_CELLS = 500_000  # that are converted at once: as many rows as have room


@dataclass(frozen=True)
class Series:
    """A column of metrics.csv.

    Args:
        steps: the steps at which it has a value, in the order of the file; [n], int64.
        values: the values, which may be NaN or infinite; [n], float64.
    """

    steps: np.ndarray
    values: Floats

    @classmethod
    def empty(cls) -> Series:
        """Return a series without values."""
        return cls(np.empty(0, np.int64), np.empty(0))

    def __len__(self) -> int:
        return len(self.steps)

    def smoothed(self, count: int) -> Series:
        """Return the means of the finite values over about `count` equal stretches, each at its mean step."""
        known = np.isfinite(self.values)
        steps, values = self.steps[known], self.values[known]
        parts = np.array_split(np.arange(len(steps)), max(1, min(count, len(steps))))
        means = [(steps[part].mean(), values[part].mean()) for part in parts if part.size]
        return Series(*np.array(means, float).T) if means else Series.empty()

    def best(self, metric: Metric) -> tuple[float, int] | None:
        """Return the best finite value by the mode of a metric and its step, the first of equal ones; None: none."""
        known = np.flatnonzero(np.isfinite(self.values))
        if not known.size:
            return None
        at = known[np.argmin(metric.sign * self.values[known])]
        return float(self.values[at]), int(self.steps[at])


class History(dict[str, Series]):
    """The series of a run by column, in the order of the file; a column without values is missing."""

    def __missing__(self, column: str) -> Series:
        return Series.empty()

    def groups(self, kind: str) -> list[str]:
        """Return the names of the groups that have a column of this kind, such as `lr` for `lr/backbone`."""
        return [name.removeprefix(f"{kind}/") for name in self if name.startswith(f"{kind}/")]

    def rows(self, before: int | None = None) -> list[tuple[int, dict[str, float]]]:
        """Return the steps and their values by column, in the order of the steps; of rows of one step, the last values.

        Args:
            before: the first step that is left out; None: none is.
        """
        found: dict[int, dict[str, float]] = {}
        for name, series in self.items():
            for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
                if before is None or step < before:
                    found.setdefault(step, {})[name] = value
        return sorted(found.items())


def read_history(path: Path, wanted: Callable[[str], bool] | None = None, rows: int | None = None) -> History:
    """Read a metrics.csv; what cannot be read of it, such as an incomplete last line, is left out.

    Args:
        path: the file; without one the history is empty.
        wanted: whether to read a column; None: all of them.
        rows: number of rows to read; None: all of them.
    """
    return GrowingFile(path, wanted).read(rows)


class GrowingFile:
    """A metrics.csv that a run may be writing: each `read` reads only the rows that are new.

    Args:
        path: the file; without one the history is empty.
        wanted: whether to read a column; None: all of them.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool] | None = None) -> None:
        self._path, self._wanted = path, wanted
        self._start_over()

    def _start_over(self) -> None:
        self._file = (0, 0)  # device and inode
        self._end = 0  # bytes that were read
        self._last = b""  # the last line that was read
        self._columns: list[str] = []
        self._found: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}  # steps and values by place

    @property
    def end(self) -> int:
        """The number of bytes that were read."""
        return self._end

    def read(self, rows: int | None = None) -> History:
        """Return all that the file held until now; nothing if it is gone.

        Args:
            rows: number of further rows to read; None: all of them.
        """
        try:
            with self._path.open("rb") as file:
                self._find_end(file)
                lines = csv.reader(self._lines(file))
                if not self._columns:
                    self._columns = next(lines, [])
                    named = enumerate(self._columns)
                    wanted = [at for at, name in named if name != "step" and (not self._wanted or self._wanted(name))]
                    self._found = {at: ([], []) for at in wanted}
                whole = islice(_whole(lines, len(self._columns)), rows)
                count = max(1, _CELLS // max(1, len(self._columns)))
                while chunk := list(islice(whole, count)):
                    self._add(list(zip(*chunk, strict=True)))
        except FileNotFoundError:
            self._start_over()
        except (OSError, csv.Error):
            pass  # what was read until here is kept
        found = History()
        joined: dict[tuple[int, ...], np.ndarray] = {}
        parts: list[np.ndarray] = []  # kept until the end, so that no other array gets the id of one of them
        for at, (steps, values) in self._found.items():
            if steps:
                # Columns with a value in each row share their steps, which halves the memory of a long file.
                ids = tuple(map(id, steps))
                if ids not in joined:
                    joined[ids] = np.concatenate(steps)
                parts += steps
                steps[:], values[:] = [joined[ids]], [np.concatenate(values)]
                found[self._columns[at]] = Series(steps[0], values[0])
        return found

    def _find_end(self, file: BinaryIO) -> None:
        """Go to where the last `read` ended, or to the start if the file is another one or was written anew."""
        state = os.fstat(file.fileno())
        file.seek(self._end - len(self._last))
        if (state.st_dev, state.st_ino) != self._file or file.read(len(self._last)) != self._last:
            self._start_over()
            self._file = (state.st_dev, state.st_ino)
            file.seek(0)

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        for line in file:
            # A line without its end is being written, or its process was killed: its last number may lack digits.
            if not line.endswith(b"\n"):
                return
            self._end += len(line)
            self._last = line
            yield line.decode(errors="replace")

    def _add(self, cells: list[tuple[str, ...]]) -> None:
        """Add the cells of some rows, by column."""
        steps = np.array([int(cell) for cell in cells[0]])
        for at, (all_steps, all_values) in self._found.items():
            values, is_known = _numbers(cells[at])
            if is_known is None:
                all_steps.append(steps)
            elif values.size:
                all_steps.append(steps[is_known])
            if values.size:
                all_values.append(values)


def _whole(rows: Iterator[list[str]], width: int) -> Iterator[list[str]]:
    """Yield the rows that have a step and all columns."""
    for row in rows:
        if len(row) == width and row[0].isascii() and row[0].isdecimal() and len(row[0]) < 19:
            yield row


def _numbers(cells: tuple[str, ...]) -> tuple[Floats, np.ndarray | None]:
    """Return the numbers in the cells of a column, and which cells hold one; None: all do."""
    try:
        if all(cells):
            return np.array([*map(float, cells)]), None
        return np.array([float(cell) for cell in cells if cell]), np.array([*map(bool, cells)])
    except ValueError:  # a text, or a torn number
        numbers = [_number(cell) for cell in cells]
        is_known = np.array([number is not None for number in numbers])
        return np.array([number for number in numbers if number is not None], float), is_known


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None

"""The series of a run, as its metrics.csv records them; also of a run that is going on or was killed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lrflow.schedules.time import Floats

_ROWS = 2000  # that are converted at once


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


class History(dict[str, Series]):
    """The series of a run by column, in the order of the file; a column without values is missing."""

    def __missing__(self, column: str) -> Series:
        return Series.empty()

    def groups(self, kind: str) -> list[str]:
        """Return the names of the groups that have a column of this kind, such as `lr` for `lr/backbone`."""
        return [name.removeprefix(f"{kind}/") for name in self if name.startswith(f"{kind}/")]


def read_history(path: Path, wanted: Callable[[str], bool] | None = None, rows: int | None = None) -> History:
    """Read a metrics.csv; what cannot be read of it, such as an incomplete last line, is left out.

    Args:
        path: the file; without one the history is empty.
        wanted: whether to read a column; None: all of them.
        rows: number of rows to read; None: all of them.
    """
    columns: list[str] = []
    places: list[int] = []
    found: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            # A line without its end is being written, or its process was killed: its last number may lack digits.
            lines = csv.reader(line for line in file if line.endswith("\n"))
            columns = next(lines, [])
            whole = islice(_whole(lines, len(columns)), rows)
            places = [at for at, name in enumerate(columns) if name != "step" and (wanted is None or wanted(name))]
            found = [([], []) for _ in places]
            while chunk := list(islice(whole, _ROWS)):
                cells = list(zip(*chunk, strict=True))
                steps = np.array([int(cell) for cell in cells[0]])
                for at, (all_steps, all_values) in zip(places, found, strict=True):
                    values, is_known = _numbers(cells[at])
                    if is_known is None:
                        all_steps.append(steps)
                    elif values.size:
                        all_steps.append(steps[is_known])
                    all_values.append(values)
    except (OSError, csv.Error):
        pass  # what was read until here is kept
    return History(
        (columns[at], Series(np.concatenate(steps), np.concatenate(values)))
        for at, (steps, values) in zip(places, found, strict=True)
        if steps
    )


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

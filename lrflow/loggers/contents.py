"""What dashboards show of a run folder besides its metrics: pictures, tables and numbers of the files in it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lrflow.finding import Finding
from lrflow.outcome import numbers_in
from lrflow.runs import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

AT_END = ("sharpness", "sweep")
"""Names of the files that are written when a run or a sweep ends."""

MOST_ROWS = 200
"""Most rows of a table, but for the last one; a longer table is sampled evenly."""

Cell = float | str | None
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """A table of a run.

    Args:
        columns: headings.
        rows: cells; None: an empty one.
    """

    columns: list[str]
    rows: list[list[Cell]]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Return the table in a CSV file, evenly sampled."""
        with path.open(newline="", encoding="utf-8") as file:
            columns, *rows = [*csv.reader(file)] or [[]]
        kept = sampled(rows)
        numeric = [all(_number(row[at]) is not None for row in kept if row[at]) for at in range(len(columns))]
        cells = [[_cell(text, is_number) for text, is_number in zip(row, numeric, strict=True)] for row in kept]
        return cls(columns, cells)

    @classmethod
    def of_findings(cls, findings: list[Finding]) -> Table:
        """Return the table of findings."""
        columns = ["kind", "step", "since", "message", "remedy", "confidence"]
        return cls(columns, [[getattr(one, column) for column in columns] for one in findings])


def sampled(rows: Sequence[T]) -> list[T]:
    """Return the rows of a table; of more than `MOST_ROWS`, about so many, evenly spaced, and the last."""
    every = max(1, -(-len(rows) // MOST_ROWS))
    return [*rows[::every], *(rows[-1:] if (len(rows) - 1) % every else [])]


def before_first_step(plan: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield folder and name of each picture and table that a run has before its first step.

    Args:
        plan: the folder with the record of the plan; that of a resumed run is staged.
        folder: the run folder.
    """
    yield plan, "plan"
    yield folder, "find"


def pictures_in(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Image]]:
    """Yield the pictures with these names in a run folder, in RGB; those that cannot be read are left out."""
    from PIL import Image, UnidentifiedImageError

    for name in names:
        with suppress(FileNotFoundError, UnidentifiedImageError), Image.open(folder / f"{name}.png") as picture:
            yield name, picture.convert("RGB")


def tables_in(folder: Path, names: tuple[str, ...]) -> dict[str, Table]:
    """Return the tables with these names in a run folder that exist."""
    return {name: Table.read(path) for name in names if (path := folder / f"{name}.csv").exists()}


def found_in(folder: Path) -> dict[str, float]:
    """Return the numbers that a search for the LR or the batch size found: `find/lr`, `find/low`, `find/high`, ..."""
    path = folder / "find.json"
    return dict(_found(read_json(path, dict))) if path.exists() else {}


def _found(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    interval = record.get("interval")
    ends = dict(zip(("low", "high"), interval, strict=False)) if isinstance(interval, list) else {}
    yield from ((f"find/{name}", value) for name, value in numbers_in({**record, **ends}).items())


def _cell(text: str, is_number: bool) -> Cell:
    return text if text and not is_number else _number(text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

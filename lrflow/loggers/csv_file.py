"""The logger for metrics.csv in the run folder."""

from __future__ import annotations

import csv
import errno
import io
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lrflow.files import set_aside, write_whole
from lrflow.redaction import redact_text, redactor

log = logging.getLogger("lrflow")


class CSVLogger(Logger):
    """Appends rows to one CSV file; flushed rows survive a killed process.

    The columns are `step` (0 is the first optimizer step), then one per metric in the order of their first appearance;
    a row leaves the columns of other metrics empty. A new metric rewrites the file once. Rows that cannot be written,
    as on a full disk, are written together with the next ones; the run continues.

    Args:
        path: the file; existing rows are kept, as for a resumed run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        found = _columns_of(path)
        self._columns = found or ["step"]
        self._names: dict[str, str] = {}
        self._columns_in_file = len(found)
        self._unwritten: list[tuple[list[str], list[list[Any]]]] = []
        self._has_warned = False
        self._drop_from: int | None = None

    @property
    def name(self) -> str:
        """The name of this logger in Lightning."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: a run folder holds a single version."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml in the run folder holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        values = [redact_text(value) if isinstance(value, str) else value for value in metrics.values()]
        self.log_rows(list(metrics), [[step, *values]])

    @rank_zero_only
    def log_rows(self, columns: list[str], rows: Iterable[list[Any]]) -> None:
        """Append rows of `step` and one value per column, and flush them to the file."""
        columns = self._shown(columns)
        self._columns += [column for column in columns if column not in self._columns]
        self._unwritten.append((["step", *columns], list(rows)))
        try:
            self._append()
        except OSError as error:
            if not self._has_warned:
                log.warning("%s: could not be written: %s; the rows are written later", self.path, error.strerror)
            self._has_warned = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Report rows that could not be written."""
        if count := sum(len(rows) for _, rows in self._unwritten):
            log.error("%s: the last %d rows could not be written", self.path, count)

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Delete the rows of `step` and later, and an incomplete last line: a resumed run writes them again.

        They are deleted when the next rows are written, so that the file stays as it was until the run continues.
        """
        self._drop_from = step

    def _shown(self, columns: list[str]) -> list[str]:
        """Return names of columns without secrets; each is looked at once."""
        for column in columns:
            if column not in self._names:
                self._names[column] = redactor.file(column)
        return [self._names[column] for column in columns]

    def _append(self) -> None:
        if self._drop_from is not None or self._columns_in_file < len(self._columns):
            self._rewrite(before=self._drop_from)
            self._drop_from = None
        text = io.StringIO(newline="")
        for columns, rows in self._unwritten:
            positions = [self._columns.index(column) for column in columns]
            complete = positions == list(range(len(self._columns)))
            csv.writer(text).writerows(
                rows if complete else [_spread(row, positions, len(self._columns)) for row in rows]
            )
        data = text.getvalue().encode()
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(data) < len(data):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unwritten.clear()

    def _rewrite(self, before: int | None = None) -> None:
        rows: list[list[str]] = []
        if self.path.exists():
            whole, newline, _torn = self.path.read_bytes().decode(errors="replace").rpartition("\n")
            try:
                rows = list(csv.reader(io.StringIO(whole + newline, newline="")))[1:]
            except csv.Error as error:
                kept = set_aside(self.path)
                log.warning("%s: cannot be read: %s; it is kept as %s", self.path, error, kept.name)
        if before is not None:
            rows = [row for row in rows if not (row and _step_of(row[0]) >= before)]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self._columns)
        writer.writerows(row + [""] * (len(self._columns) - len(row)) for row in rows)
        write_whole(self.path, text.getvalue())
        self._columns_in_file = len(self._columns)


def _columns_of(path: Path) -> list[str]:
    """Return the columns of a file of metrics; empty if it has none yet. Any other file gets another name."""
    if not path.exists() or path.stat().st_size == 0:
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
            if columns[:1] == ["step"] and len({*columns}) == len(columns):
                return columns
    except (UnicodeDecodeError, csv.Error):
        pass
    kept = set_aside(path)
    log.warning("%s: is no file of metrics; it is kept as %s, and a new one is begun", path, kept.name)
    return []


def _step_of(cell: str) -> float:
    """Return the step in the first cell of a row; minus infinity if it holds none."""
    return int(cell) if cell.isascii() and cell.isdecimal() and len(cell) < 19 else -math.inf


def _spread(row: list[Any], positions: list[int], width: int) -> list[Any]:
    """Return a row of `width` columns with the values at these positions."""
    spread: list[Any] = [""] * width
    for index, value in zip(positions, row, strict=True):
        spread[index] = value
    return spread

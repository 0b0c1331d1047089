"""Tables read from CSV and Parquet files: columns of numbers or of texts, and what does not fit, with its line."""

from __future__ import annotations

import codecs
import encodings
import math
import pkgutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from encodings import aliases
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrflow.data.table.rows import csv_rows
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.files import did_you_mean_path, is_file

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
"""Cells that hold no value."""

FILE_TYPES = (".csv", ".tsv", ".txt", ".parquet")
"""Endings of the files that can be read."""

NUMERIC = 0.9
"""Share of the cells from which on a column holds numbers, and the other cells are mistakes."""

SHOWN = 5
"""Mistakes of a file that are listed one by one."""

_DELIMITERS = ",;\t|"
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Reading:
    """How the cells of a file are read.

    Args:
        delimiter: between the cells of a CSV file; None: the most frequent of `, ; tab |` in the first line.
        encoding: of a CSV file, as Python names it.
        missing: cells that hold no value.
        texts: names of columns that are read as texts even if they hold numbers.
        skip: leave out rows that cannot be read, instead of an error.
    """

    delimiter: str | None = None
    encoding: str = "utf-8"
    missing: tuple[str, ...] = MISSING
    texts: frozenset[str] = frozenset()
    skip: bool = False


class Mistake(NamedTuple):
    """A row that does not fit: its line, and what is wrong with it."""

    line: int
    message: str


@dataclass(frozen=True, eq=False)
class Column:
    """A column: of numbers, or of texts as indices into its different texts.

    Args:
        name: from the first line.
        numbers: float64 [rows], NaN where the cell is missing; None: a column of texts.
        codes: int64 [rows], -1 where the cell is missing; empty in a column of numbers.
        levels: the different texts.
        strange: by row, the cells of a column of numbers that are none; NaN in `numbers`.
    """

    name: str
    numbers: np.ndarray | None
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    levels: tuple[str, ...] = ()
    strange: dict[int, str] = field(default_factory=dict)

    @property
    def is_missing(self) -> np.ndarray:
        """Which cells hold no value [rows]; a strange one counts as missing."""
        return np.isnan(self.numbers) if self.numbers is not None else self.codes < 0

    def at(self, rows: np.ndarray) -> Column:
        """The column at these rows, in their order."""
        numbers = None if self.numbers is None else self.numbers[rows]
        codes = self.codes if self.numbers is not None else self.codes[rows]
        if not self.strange:
            return replace(self, numbers=numbers, codes=codes)
        new = {int(old): index for index, old in enumerate(rows)}
        strange = {new[row]: text for row, text in self.strange.items() if row in new}
        return replace(self, numbers=numbers, codes=codes, strange=strange)

    def as_texts(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the column as codes and levels; whole numbers are written without a point."""
        if self.numbers is None:
            return self.codes, self.levels
        present = ~np.isnan(self.numbers)
        values, found = np.unique(self.numbers[present], return_inverse=True)
        codes = np.full(len(self.numbers), -1)
        codes[present] = found
        return codes, tuple(str(int(value)) if value.is_integer() else repr(float(value)) for value in values)


@dataclass(frozen=True, eq=False)
class TableFile:
    """The columns of a file.

    Args:
        path: the file.
        columns: by name, in the order of the file.
        lines: line of each row in a CSV file, number of the row in a Parquet file, both from 1; int64 [rows].
        mistakes: rows that were left out because they could not be read.
        unnamed: number of columns without a name, which are left out.
    """

    path: Path
    columns: dict[str, Column]
    lines: np.ndarray
    mistakes: tuple[Mistake, ...] = ()
    unnamed: int = 0

    def at(self, rows: np.ndarray) -> TableFile:
        """The table of these rows, in their order."""
        columns = {name: column.at(rows) for name, column in self.columns.items()}
        return replace(self, columns=columns, lines=self.lines[rows])

    @property
    def row(self) -> str:
        """What a message calls a row."""
        return "row" if self.path.suffix.lower() == ".parquet" else "line"


def read_table(path: Path, reading: Reading, key: str) -> TableFile:
    """Read a file.

    Args:
        path: ends in one of `FILE_TYPES`.
        reading: how the cells are read.
        key: config key that names the file.

    Raises:
        ConfigError: there is no such file, it is empty, its names are not unique, or rows cannot be read and are not
            to be left out.
    """
    if not is_file(path):
        raise ConfigError([Problem(key, "there is no such file", str(path), did_you_mean_path(path))])
    if path.suffix.lower() not in FILE_TYPES:
        raise ConfigError([Problem(key, f"expected a file of {', '.join(FILE_TYPES)}", str(path))])
    try:
        table = _parquet(path, reading, key) if path.suffix.lower() == ".parquet" else _csv(path, reading, key)
    except OSError as error:
        raise ConfigError([Problem(key, f"cannot be read: {error.strerror or error}", str(path))]) from None
    if table.mistakes and not reading.skip:
        raise ConfigError([mistaken(table.path, table.mistakes, key, table.row)])
    if not len(table.lines):
        raise ConfigError([Problem(key, "has no rows below the names of its columns", str(path))])
    return table


def mistaken(path: Path, mistakes: Iterable[Mistake], key: str, row: str = "line") -> Problem:
    """Return the problem of the rows that do not fit: the first few of them, and the number of the others."""
    found = sorted(mistakes)
    texts = [f"{row} {line}: {message}" for line, message in found[:SHOWN]]
    if len(found) > SHOWN:
        texts.append(f"and {len(found) - SHOWN:,} more")
    hint = "data.bad_rows=skip leaves such rows out and counts them" if key.startswith("data.") else None
    return Problem(key, "; ".join(texts), str(path), hint)


def check_encoding(name: object, key: str = "data.encoding") -> list[Problem]:
    """Return the problem of an encoding that Python does not have."""
    plain = encodings.normalize_encoding(str(name)).lower()
    plain = aliases.aliases.get(plain, plain)
    # Python is not asked for it, since packages may add a codec for any name, as future_typing does.
    if any(module.name == plain for module in pkgutil.iter_modules(encodings.__path__)):
        with suppress(LookupError):  # a codec of bytes, such as zip
            "".encode(plain)
            return []
    known = ("utf-8", "latin-1", "cp1252", "utf-16", "ascii")
    return [Problem(key, "there is no such encoding", name, did_you_mean(str(name), known))]


def _csv(path: Path, reading: Reading, key: str) -> TableFile:
    encoding = "utf-8-sig" if codecs.lookup(reading.encoding).name == "utf-8" else reading.encoding
    try:
        with path.open(newline="", encoding=encoding) as file:
            return _read_csv(path, file, reading, key)
    except UnicodeError as error:
        mistake = undecodable(path, reading.encoding, error)
        if not reading.skip:
            hint = "data.encoding=latin-1 reads any byte; cp1252 is that of older Windows programs"
            raise ConfigError([Problem(key, f"line {mistake.line}: {mistake.message}", str(path), hint)]) from None
    with path.open(newline="", encoding=encoding, errors="surrogateescape") as file:
        return _read_csv(path, file, reading, key, escaped=True)


def undecodable(path: Path, encoding: str, error: UnicodeError) -> Mistake:
    """Return the line of the first byte that does not belong to the encoding."""
    content, position = path.read_bytes(), 0
    try:
        content.decode(encoding)
    except UnicodeDecodeError as whole:
        position, error = whole.start, whole
    byte = f"byte 0x{content[position]:02x}" if position < len(content) else str(error)
    return Mistake(content[:position].count(b"\n") + 1, f"{byte} is not {encoding}")


def _read_csv(path: Path, file: Any, reading: Reading, key: str, escaped: bool = False) -> TableFile:
    first = file.readline()
    if not first.strip():
        raise ConfigError([Problem(key, "the file is empty" if not first else "its first line is empty", str(path))])
    delimiter = reading.delimiter or max(_DELIMITERS, key=first.count)
    file.seek(0)
    _, first_row, message = next(csv_rows(file, delimiter))
    if message:
        raise ConfigError([Problem(key, f"its first line {message}", str(path))])
    names = [name.strip() for name in first_row]
    _check_names(path, names, key)
    texts = set(reading.texts)
    while True:
        file.seek(0)
        rows = csv_rows(file, delimiter)
        next(rows)
        builders = [_Builder(name, reading.missing, name in texts) for name in names]
        lines, mistakes = _fill(rows, builders, escaped)
        late = {one.name for one in builders if one.is_text_after_all}
        if not late:
            break
        texts |= late  # the texts of its numbers, such as 007, are known only to the file
    columns = {one.name: one.column() for one in builders if one.name}
    return TableFile(path, columns, lines, tuple(mistakes), names.count(""))


def _check_names(path: Path, names: Sequence[str], key: str) -> None:
    given = [name for name in names if name]
    if double := sorted({name for name in given if given.count(name) > 1}):
        message = f"the first line names columns more than once: {', '.join(map(shortened, double[:SHOWN]))}"
        raise ConfigError([Problem(key, message, str(path))])
    if given and all(map(is_number, given)):
        message = f"the first line holds numbers, not the names of columns: {', '.join(map(shortened, given[:3]))}, ..."
        raise ConfigError([Problem(key, message, str(path), "add a line of names above the rows")])


def is_number(cell: str) -> bool:
    """Return whether a cell is written as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _fill(
    found: Iterator[tuple[int, list[str], str]], builders: list[_Builder], escaped: bool
) -> tuple[np.ndarray, list[Mistake]]:
    """Read all rows into the builders; return their lines, and the rows that cannot be read."""
    width = len(builders)
    lines: list[int] = []
    mistakes: list[Mistake] = []
    rows: list[list[str]] = []
    for line, row, message in found:
        if len(row) == width and not (escaped and _is_escaped(row)):
            rows.append(row)
            lines.append(line)
            if len(rows) == _CHUNK:
                _add(builders, rows)
                rows = []
        elif message:
            mistakes.append(Mistake(line, message))
        elif row and len(row) != width:
            mistakes.append(Mistake(line, f"has {len(row)} cells, and the first line names {width} columns"))
        elif row:
            mistakes.append(Mistake(line, "has bytes that do not belong to the encoding"))
    _add(builders, rows)
    return np.array(lines, np.int64), mistakes


def _add(builders: list[_Builder], rows: list[list[str]]) -> None:
    for builder, cells in zip(builders, zip(*rows, strict=True), strict=False):
        builder.add(cells)


def _is_escaped(row: Sequence[str]) -> bool:
    return any("\udc80" <= sign <= "\udcff" for cell in row if not cell.isascii() for sign in cell)


class _Builder:
    """A column that is read chunk by chunk: as numbers until its first chunk shows that it holds texts."""

    def __init__(self, name: str, missing: Collection[str], texts: bool) -> None:
        self.name = name
        self._missing, self._texts = frozenset(missing), texts
        self._parts: list[np.ndarray] = []
        self._codes: dict[str, int] = {}
        self._strange: dict[int, str] = {}
        self._rows = self._present = 0

    def add(self, cells: Sequence[str]) -> None:
        """Add the cells of some rows."""
        if not self._texts:
            values, strange = _numbers(cells, self._missing)
            present = int(np.isfinite(values).sum()) + len(strange)
            if self._rows or len(strange) <= (1 - NUMERIC) * present:
                self._parts.append(values)
                self._strange |= {self._rows + index: text for index, text in strange.items()}
                self._present += present
                self._rows += len(cells)
                return
            self._texts = True
        codes = self._codes
        self._parts.append(np.array([codes.setdefault(cell, len(codes)) for cell in cells], np.int64))
        self._rows += len(cells)

    @property
    def is_text_after_all(self) -> bool:
        """Whether a column that began with numbers holds too many texts to be one of numbers."""
        return not self._texts and len(self._strange) > (1 - NUMERIC) * self._present

    def column(self) -> Column:
        """Return the whole column."""
        if not self._texts:
            numbers = np.concatenate(self._parts) if self._parts else np.empty(0)
            return Column(self.name, numbers, strange=self._strange)
        codes = np.concatenate(self._parts) if self._parts else np.empty(0, np.int64)
        return text_column(self.name, codes, list(self._codes), self._missing)


def text_column(name: str, codes: np.ndarray, levels: Sequence[str], missing: Collection[str]) -> Column:
    """Return a column of texts; spaces around a text do not count, and missing ones get the code -1."""
    merged: dict[str, int] = {}
    new = [-1 if text in missing else merged.setdefault(text, len(merged)) for text in map(str.strip, levels)]
    lookup = np.array([*new, -1], np.int64)  # the code -1 stays
    return Column(name, None, lookup[codes], tuple(merged))


def _numbers(cells: Sequence[str], missing: Collection[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Return cells as numbers, NaN where they are missing or none, and the latter by their index."""
    try:
        values = np.array([math.nan if cell in missing else float(cell) for cell in cells])
        if not np.isinf(values).any() and not any("_" in cell for cell in cells):
            return values, {}
    except ValueError:
        pass
    values, strange = np.full(len(cells), math.nan), {}
    for index, cell in enumerate(cells):
        if (text := cell.strip()) in missing:
            continue
        try:
            value = math.inf if "_" in text else float(text)  # Python reads 1_000 as a number
        except ValueError:
            value = math.inf
        if math.isinf(value):
            strange[index] = text
        else:
            values[index] = value
    return values, strange


def _parquet(path: Path, reading: Reading, key: str) -> TableFile:
    import pyarrow
    from pyarrow import parquet, types

    try:
        content = parquet.read_table(path)
    except (pyarrow.ArrowException, ValueError) as error:
        message = f"cannot be read: {str(error).partition(chr(10))[0]}"
        raise ConfigError([Problem(key, message, str(path))]) from None
    _check_names(path, content.column_names, key)
    columns: dict[str, Column] = {}
    for name in content.column_names:
        values, kind = content[name].combine_chunks(), content.schema.field(name).type
        is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
        if is_number and name not in reading.texts:
            numbers = values.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
            infinite = np.flatnonzero(np.isinf(numbers))
            strange = {int(row): str(numbers[row]) for row in infinite}
            columns[name] = Column(name, np.where(np.isinf(numbers), np.nan, numbers), strange=strange)
            continue
        try:
            texts = values.cast(pyarrow.string()).dictionary_encode()
        except pyarrow.ArrowException:
            message = f"cells of the type {kind} cannot be read"
            raise ConfigError([Problem(f"data.columns.{name}", message, where=str(path))]) from None
        codes = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        columns[name] = text_column(name, codes, texts.dictionary.to_pylist(), frozenset(reading.missing))
    return TableFile(path, columns, np.arange(1, content.num_rows + 1))

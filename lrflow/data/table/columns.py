"""The columns of a table as numbers: their kinds, what is fitted to the training part, and their cells as a matrix."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from lrflow.data.table.file import NUMERIC, Column, Mistake, TableFile
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened

KINDS = ("number", "category", "boolean", "date", "ignore")
"""Kinds of columns."""

UNKNOWN = 0
"""Index of a category that the training part does not have, or has too rarely."""

PERIODS = {"year": 365.2425, "week": 7.0, "day": 1.0}
"""Days of the periods of which a date gets a sine and a cosine; `day` only where dates have a time."""

Layout = dict[str, Any]
"""What is fitted to the training part of a column, as plain data: `name`, `kind` and, by kind, the following.

numbers, booleans, dates: `fill` (the median), `mean`, `scale` (the standard deviation), `missing` (whether cells were);
dates also `periods`; categories `levels` (of index 1, 2, ...) and `missing` (the last index then stands for no value).
"""

_TRUE, _FALSE = ("true", "yes", "t", "y"), ("false", "no", "f", "n")
_EPOCH = datetime(1970, 1, 1)
_MANY = 20
"""Number of different texts up to which a column is never ignored."""


def check_commas(columns: Iterable[Column], file: str) -> None:
    """Check that no column of texts consists of numbers with commas, which would count as categories.

    Raises:
        ConfigError: names the first such column.
    """
    for column in columns:
        commas = [text for text in column.levels if "," in text] if column.numbers is None else []
        if commas and all(map(_COMMA.fullmatch, column.levels)):
            message = f"the column {shortened(column.name)} has numbers with commas, such as {shortened(commas[0])}"
            hint = f"write decimal points; or 'data.columns={{{column.name}: category}}' if they are no numbers"
            raise ConfigError([Problem("data.file", message, file, hint)])


_COMMA = re.compile(r"[+-]?\d+(,\d+)*")


def kind_of(column: Column) -> tuple[str, str]:
    """Return the kind of a column by its cells, and the reason if it is ignored."""
    present = ~column.is_missing
    rows = int(present.sum()) + len(column.strange)
    if not rows:
        return "ignore", "has no values"
    if column.numbers is not None:
        values = column.numbers[present]
        constant = len(values) and bool((values == values[0]).all()) and not column.is_missing.any()
        return ("ignore", "has one value") if constant else ("number", "")
    levels = [text.lower() for text in column.levels]
    if len(levels) == 1 and present.all():
        return "ignore", "has one value"
    if len(levels) == 2 and any(set(levels) == {yes, no} for yes, no in zip(_TRUE, _FALSE, strict=True)):
        return "boolean", ""
    counts = np.bincount(column.codes[present], minlength=len(levels))
    dated = np.array([_days(text) is not None for text in column.levels])
    if counts[dated].sum() >= NUMERIC * rows:
        return "date", ""
    if len(levels) > max(_MANY, rows / 2):
        return "ignore", f"has {len(levels):,} different texts in {rows:,} rows"
    return "category", ""


def kinds_of(table: TableFile, given: Mapping[str, str], left_out: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the kind of each column, and the reason if it is ignored.

    Args:
        table: the table.
        given: kinds that the config gives, by name.
        left_out: names of columns that are no inputs.
    """
    found = {}
    for name, column in table.columns.items():
        if name in left_out:
            continue
        found[name] = kind_of(column) if name not in given else (given[name], "as data.columns says")
    return found


def check_kinds(given: object, names: Sequence[str]) -> list[Problem]:
    """Return a problem for each column of `data.columns` that does not exist, and for each kind that does not."""
    problems = []
    for name, kind in given.items() if isinstance(given, Mapping) else ():
        if name not in names:
            hint = did_you_mean(str(name), names)
            problems.append(Problem(f"data.columns.{name}", "the table has no such column", kind, hint))
        elif kind not in KINDS:
            hint = did_you_mean(str(kind), KINDS)
            problems.append(Problem(f"data.columns.{name}", f"expected one of {', '.join(KINDS)}", kind, hint))
    return problems


def check_same_columns(table: TableFile, names: Sequence[str], key: str) -> None:
    """Check that a file has the columns of the training.

    Raises:
        ConfigError: every column that it lacks.
    """
    lacking = [name for name in names if name not in table.columns]
    if lacking:
        hint = did_you_mean(lacking[0], table.columns)
        message = f"lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(map(shortened, lacking[:5]))}"
        message += f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise ConfigError([Problem(key, message, str(table.path), f"{shortened(lacking[0])}: {hint}")])


def values_of(column: Column, kind: str) -> tuple[np.ndarray, dict[int, str]]:
    """Return the cells of a column of numbers, booleans or dates as numbers, NaN where missing.

    Returns:
        The numbers, float64 [rows]; dates in days since 1970, booleans as 0 and 1. And the cells that do not fit, by
        their row.
    """
    if kind == "number" and column.numbers is not None:
        return column.numbers, column.strange
    if kind == "boolean" and column.numbers is not None:
        odd = np.flatnonzero(~np.isin(column.numbers, (0, 1)) & ~np.isnan(column.numbers))
        return column.numbers, {**column.strange, **{int(row): f"{column.numbers[row]:g}" for row in odd}}
    codes, levels = column.as_texts()
    convert = {"number": _number, "boolean": _truth, "date": _days}[kind]
    numbers = [convert(text) for text in levels]
    lookup = np.array([math.nan if number is None else number for number in [*numbers, None]])
    odd = np.flatnonzero(np.isin(codes, [code for code, number in enumerate(numbers) if number is None]))
    return lookup[codes], {**column.strange, **{int(row): levels[codes[row]] for row in odd}}


def strange_cells(table: TableFile, kinds: Mapping[str, str]) -> dict[int, Mistake]:
    """Return the rows with a cell that is not of the kind of its column, by their index."""
    what = {"number": "is no number", "boolean": "is neither true nor false", "date": "is no date, such as 2024-05-31"}
    found: dict[int, Mistake] = {}
    for name, kind in kinds.items():
        if kind in what:
            for row, text in values_of(table.columns[name], kind)[1].items():
                message = f"{shortened(text)!r} in the column {shortened(name)} {what[kind]}"
                found.setdefault(row, Mistake(int(table.lines[row]), message))
    return found


def fit_column(column: Column, kind: str, rows: np.ndarray, rare: int) -> Layout:
    """Fit a column to the training part.

    Args:
        column: the column.
        kind: its kind.
        rows: indices of the training part.
        rare: categories with fewer rows than this share the index of unknown ones.
    """
    layout: Layout = {"name": column.name, "kind": kind}
    if kind == "category":
        codes, levels = column.as_texts()
        counts = np.bincount(codes[rows][codes[rows] >= 0], minlength=len(levels))
        kept = sorted(level for level, count in zip(levels, counts, strict=True) if count >= max(rare, 1))
        return {**layout, "levels": kept, "missing": bool((codes[rows] < 0).any())}
    values = values_of(column, kind)[0][rows]
    present = values[~np.isnan(values)]
    scale = float(present.std()) if len(present) else 0.0
    layout |= {
        "fill": float(np.median(present)) if len(present) else 0.0,
        "mean": float(present.mean()) if len(present) else 0.0,
        "scale": scale if scale > 0 else 1.0,
        "missing": len(present) < len(values),
    }
    if kind == "date":
        timed = bool((present % 1 != 0).any())
        layout["periods"] = [name for name in PERIODS if timed or name != "day"]
    return layout


def matrix_of(table: TableFile, layouts: Sequence[Layout]) -> np.ndarray:
    """Return the cells as numbers, float64 [rows, columns]: NaN for no value, categories as their indices."""
    found = np.empty((len(table.lines), len(layouts)))
    for place, layout in enumerate(layouts):
        column = table.columns[layout["name"]]
        if layout["kind"] != "category":
            found[:, place] = values_of(column, layout["kind"])[0]
            continue
        codes, levels = column.as_texts()
        index = {level: number for number, level in enumerate(layout["levels"], start=UNKNOWN + 1)}
        absent = cardinality(layout) - 1 if layout["missing"] else UNKNOWN
        found[:, place] = np.array([*(index.get(level, UNKNOWN) for level in levels), absent], float)[codes]
    return found


def in_order(levels: Sequence[str]) -> list[str]:
    """Return texts in the order of their numbers if all of them are numbers, else of the alphabet."""
    numbers = {text: _number(text) for text in levels}
    if None in numbers.values():
        return sorted(levels)
    return sorted(levels, key=lambda text: (numbers[text], text))


def cardinality(layout: Layout) -> int:
    """Return the number of indices of a category: its levels, the unknown ones and, if there were any, no value."""
    return UNKNOWN + 1 + len(layout["levels"]) + bool(layout["missing"])


def texts_of(layout: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the columns that are read as texts: the categories."""
    return frozenset(one["name"] for one in layout["columns"] if one["kind"] == "category")


def width(layout: Mapping[str, Any]) -> int:
    """Return the number of inputs of the network."""
    columns = layout["columns"]
    numeric = [one for one in columns if one["kind"] != "category"]
    dates = sum(2 * len(one.get("periods", ())) for one in columns)
    categories = [cardinality(one) for one in columns if one["kind"] == "category"]
    coded = len(categories) if layout["categories"] == "embed" else sum(categories)
    return len(numeric) + dates + sum(one["missing"] for one in numeric) + coded


def cardinalities(layout: Mapping[str, Any]) -> list[int]:
    """Return the number of indices of each category whose index is an input; these are the last inputs."""
    found = [cardinality(one) for one in layout["columns"] if one["kind"] == "category"]
    return found if layout["categories"] == "embed" else []


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _truth(text: str) -> float | None:
    lower = text.lower()
    return 1.0 if lower in (*_TRUE, "1", "1.0") else 0.0 if lower in (*_FALSE, "0", "0.0") else None


def _days(text: str) -> float | None:
    """Return a date as days since 1970; with a time zone, those of UTC."""
    if len(text) < 8 or not text[:4].isdigit() or not ("-" in text or len(text) == 8):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is not None:
        found = found.astimezone(UTC).replace(tzinfo=None)
    return (found - _EPOCH).total_seconds() / 86400


def as_date(days: float) -> str:
    """Return days since 1970 as a date."""
    return date.fromordinal(_EPOCH.toordinal() + math.floor(days)).isoformat()

"""A table prepared for training: read, checked row by row, split, and fitted to its training part; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.splits import PARTS, HeldOut, part_named
from lrflow.data.table.columns import (
    Layout,
    cardinalities,
    check_commas,
    check_kinds,
    check_same_columns,
    fit_column,
    in_order,
    kinds_of,
    matrix_of,
    strange_cells,
    texts_of,
    values_of,
    width,
)
from lrflow.data.table.file import (
    MISSING,
    Column,
    Mistake,
    Reading,
    TableFile,
    check_encoding,
    is_number,
    mistaken,
    read_table,
)
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.files import is_file
from lrflow.limits import Limit, one_of, outside, whole

TARGETS = ("regression", "binary", "multiclass")
"""Kinds of targets."""

MOST_CLASSES = 20
"""Number of different whole numbers up to which a target is taken for class numbers."""

_LIMITS = {
    "file": Limit("the path of a file", lambda value: isinstance(value, str) and bool(value)),
    "target": Limit("the name of a column", lambda value: isinstance(value, str) and bool(value)),
    "kind": one_of(*TARGETS).or_null(),
    "bad_rows": one_of("error", "skip"),
    "categories": one_of("embed", "one_hot"),
    "scaling": one_of("standard", "none"),
    "rare": whole(0),
    "delimiter": Limit(
        "one character that is no quote, or null",
        lambda value: value is None or (isinstance(value, str) and len(value) == 1 and value not in '"\r\n'),
    ),
}


@dataclass(frozen=True)
class TableOptions:
    """The options of `data=table` for its files; the arguments of `lrflow.data.Table` have the same names."""

    file: str
    target: str
    kind: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    split: str | None = None
    weight: str | None = None
    val_file: str | None = None
    test_file: str | None = None
    val_size: int | float | str = "15%"
    test_size: int | float | str = "15%"
    folds: int | None = None
    fold: int = 0
    split_seed: int = 0
    missing: tuple[str, ...] = MISSING
    delimiter: str | None = None
    encoding: str = "utf-8"
    bad_rows: str = "error"
    categories: str = "embed"
    scaling: str = "standard"
    rare: int = 2

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TableOptions:
        """Return the options of a config node; keys of other arguments are left out.

        Raises:
            ConfigError: every invalid value.
        """
        own = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        problems = outside(_LIMITS, own, "data")
        for name in ("split", "weight", "val_file", "test_file"):
            if own.get(name) is not None and not isinstance(own[name], str):
                problems.append(Problem(f"data.{name}", "expected text, or null", own[name]))
        problems += HeldOut.of(own).problems()
        columns, missing = own.get("columns") or {}, own.get("missing", MISSING)
        if not isinstance(columns, Mapping):
            problems.append(Problem("data.columns", "expected names of columns with their kinds", columns))
        if not isinstance(missing, list | tuple) or not all(isinstance(one, str) for one in missing):
            problems.append(Problem("data.missing", "expected a list of texts", missing))
        problems += check_encoding(own.get("encoding", "utf-8"))
        for name in ("file", "target"):
            if own.get(name) is None:
                what = "the path of a CSV or Parquet file" if name == "file" else "the column to predict"
                problems.append(Problem(f"data.{name}", f"expected {what}", hint=f"data.{name}=..."))
        if problems:
            first = {problem.key: problem for problem in reversed(problems)}
            raise ConfigError(reversed(first.values()))
        own |= {"columns": tuple((str(k), str(v)) for k, v in columns.items()), "missing": tuple(missing)}
        return cls(**own)

    @property
    def held_out(self) -> HeldOut:
        """What is held out for validation and test where no file and no column defines the parts."""
        return HeldOut.of(vars(self))

    @property
    def reading(self) -> Reading:
        """How the files are read."""
        texts = {name for name, kind in self.columns if kind == "category"} | {*([self.split] if self.split else ())}
        texts |= {self.target} if self.kind in ("binary", "multiclass") else set()
        return Reading(self.delimiter, self.encoding, self.missing, frozenset(texts), self.bad_rows == "skip")


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """A table as a data module needs it.

    Args:
        inputs: float64 [rows, columns]; see `matrix_of`.
        targets: class numbers int64 [rows], or numbers float64 [rows].
        rows: of each part, the indices of its rows.
        layout: what is fitted to the training part, as plain data: `columns`, `target`, `categories`, `scaling`.
        skipped: the number of rows that were left out, by the reason.
        ignored: columns that are no inputs, with the reasons.
        absent: number of cells without a value, by column.
        weights: by which rows to train on are drawn, float64 [rows], NaN in other files than the first; None: none.
    """

    inputs: np.ndarray
    targets: np.ndarray
    rows: Mapping[str, np.ndarray]
    layout: Layout
    skipped: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    weights: np.ndarray | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """What is held out, as `data.val_size` and `data.test_size` count it."""
        return {part: len(self.rows[part]) for part in PARTS[1:]}

    @property
    def facts(self) -> dict[str, Any]:
        """What a config has to know before the data is read: see `lrflow.config.schemas.objects.Facts`."""
        target = self.layout["target"]
        classes = len(target["classes"])
        return {
            "examples": len(self.inputs),
            "shape": [width(self.layout)],
            "outputs": classes or 1,
            "loss": "cross_entropy" if classes else "mse",
            "cardinalities": cardinalities(self.layout),
            "units": None if classes else [target["mean"], target["scale"]],
        }


def prepare(options: TableOptions, layout: Layout | None = None) -> PreparedTable:
    """Read, check, split and fit a table; the last results are kept as long as their files do not change.

    Args:
        options: of the table.
        layout: what an earlier training was fitted to; None: it is fitted to the training part.

    Raises:
        ConfigError: a file or a column does not exist, rows do not fit, or a part has no rows.
    """
    if layout is not None:
        return _prepare(options, layout)
    files = (options.file, options.val_file, options.test_file)
    stats = [Path(name).stat() for name in files if name and is_file(Path(name))]
    return _prepared(options, tuple((one.st_size, one.st_mtime_ns) for one in stats))


@lru_cache(maxsize=2)
def _prepared(options: TableOptions, files: tuple[tuple[int, int], ...]) -> PreparedTable:
    return _prepare(options, None)


def _prepare(options: TableOptions, layout: Layout | None) -> PreparedTable:
    reading = options.reading
    if layout:
        reading = replace(reading, texts=reading.texts | texts_of(layout))
    given = {"train": options.file, "val": options.val_file, "test": options.test_file}
    keys = {"train": "data.file", "val": "data.val_file", "test": "data.test_file"}
    tables = {part: read_table(Path(name), reading, keys[part]) for part, name in given.items() if name}
    main = tables["train"]
    _check_columns(options, main)
    left_out = [name for name in (options.target, options.split, options.weight) if name]
    if layout is None:
        check_commas((one for name, one in main.columns.items() if name not in options.columns), options.file)
    kinds = kinds_of(main, dict(options.columns), left_out)
    if layout:
        kinds = {one["name"]: (one["kind"], "") for one in layout["columns"]}
    used = {name: kind for name, (kind, _) in kinds.items() if kind != "ignore"}
    if not used:
        raise ConfigError([Problem("data.file", "no column is left as an input", options.file)])
    target = main.columns[options.target]
    kind = layout["target"]["kind"] if layout else options.kind or target_kind(target)
    skipped: dict[str, int] = {}
    for part, table in tables.items():
        check_same_columns(table, [*used, options.target], keys[part])
        tables[part] = _without_mistakes(table, options, kind, used, keys[part], skipped)
    lengths = [len(table.lines) for table in tables.values()]
    joined = {name: _joined([table.columns[name] for table in tables.values()]) for name in [*used, options.target]}
    targets, classes = _targets_of(joined[options.target], kind, layout)
    rows = _rows_of(options, tables, lengths, targets)
    whole_table = TableFile(main.path, joined, np.concatenate([table.lines for table in tables.values()]))
    if layout is None:
        columns = [fit_column(joined[name], of, rows["train"], options.rare) for name, of in used.items()]
        own = targets[rows["train"]] if kind == "regression" else np.zeros(1)
        summary = {"mean": float(own.mean()), "scale": float(own.std()) or 1.0}
        about = {"name": options.target, "kind": kind, "classes": classes, **summary}
        layout = {"columns": columns, "target": about, "categories": options.categories, "scaling": options.scaling}
    return PreparedTable(
        matrix_of(whole_table, layout["columns"]),
        targets,
        rows,
        layout,
        skipped,
        {name: why for name, (one, why) in kinds.items() if one == "ignore"},
        {name: int(joined[name].is_missing.sum()) for name in used},
        _weights_of(options, tables["train"], len(targets)),
    )


def _weights_of(options: TableOptions, table: TableFile, rows: int) -> np.ndarray | None:
    """Return the weights of all rows; those of other files than the first have none."""
    if options.weight is None:
        return None
    weights = np.full(rows, np.nan)
    weights[: len(table.lines)] = values_of(table.columns[options.weight], "number")[0]
    return weights


def _check_columns(options: TableOptions, table: TableFile) -> None:
    """Check that the columns that the config names exist."""
    names = list(table.columns)
    problems = check_kinds(dict(options.columns), names)
    for key, name in (("target", options.target), ("split", options.split), ("weight", options.weight)):
        if name is not None and name not in names:
            problems.append(Problem(f"data.{key}", "the table has no such column", name, did_you_mean(name, names)))
    if problems:
        raise ConfigError(problems)


def target_kind(column: Column) -> str:
    """Return the kind of a target by its cells: few different whole numbers and texts are classes."""
    if column.numbers is not None:
        values = np.unique(column.numbers[~np.isnan(column.numbers)])
        if len(values) > MOST_CLASSES or bool((values % 1 != 0).any()):
            return "regression"
        return "binary" if len(values) == 2 else "multiclass"
    return "binary" if len(column.levels) == 2 else "multiclass"


def wrong_weights(column: Column) -> list[int]:
    """Return the rows of a column of weights that are no finite numbers of at least 0."""
    values, _ = values_of(column, "number")
    return np.flatnonzero(~(np.isfinite(values) & (values >= 0))).tolist()


def _without_mistakes(
    table: TableFile, options: TableOptions, kind: str, used: Mapping[str, str], key: str, skipped: dict[str, int]
) -> TableFile:
    """Return a table without the rows that do not fit, which are counted.

    Raises:
        ConfigError: there are such rows, and they are not to be left out.
    """
    target = table.columns[options.target]
    bad = strange_cells(table, used)
    reasons = dict.fromkeys(bad, "cells of another kind than their column's")
    if table.mistakes:
        skipped["rows that cannot be read"] = skipped.get("rows that cannot be read", 0) + len(table.mistakes)

    def add(rows: Sequence[int], message: str, reason: str) -> None:
        for row in rows:
            if row not in bad:
                bad[row], reasons[row] = Mistake(int(table.lines[row]), message), reason

    if kind == "regression":
        values, strange = values_of(target, "number")
        for row, text in strange.items():
            add([row], f"the target {shortened(text)!r} is no number", "targets that are no numbers")
        absent = np.isnan(values)
    else:
        codes, levels = target.as_texts()
        absent = codes < 0
        counts = np.bincount(codes[~absent], minlength=len(levels))
        single = np.isin(codes, np.flatnonzero(counts == 1))
        if key == "data.file" and len(levels) > 2 and 2 * int(single.sum()) > len(codes):
            raise ConfigError([_many_classes(options, levels, len(codes))])
        for alone in np.flatnonzero(single).tolist() if key == "data.file" else ():
            message = f"the only row of the class {shortened(levels[codes[alone]])!r}"
            add([alone], message, "classes with one row")
    add(np.flatnonzero(absent).tolist(), f"no value in the target {shortened(options.target)}", "rows without a target")
    if options.weight is not None and key == "data.file":
        wrong = wrong_weights(table.columns[options.weight])
        add(wrong, f"expected a weight of at least 0 in {shortened(options.weight)}", "rows without a weight")
    if bad and options.bad_rows != "skip":
        raise ConfigError([mistaken(table.path, bad.values(), key, table.row)])
    for reason in reasons.values():
        skipped[reason] = skipped.get(reason, 0) + 1
    kept = np.setdiff1d(np.arange(len(table.lines)), np.fromiter(bad, np.int64, len(bad)))
    if not len(kept):
        raise ConfigError([Problem(key, "no row is left: all of them have mistakes", str(table.path))])
    return table.at(kept) if bad else table


def _many_classes(options: TableOptions, levels: Sequence[str], rows: int) -> Problem:
    count = f"has {len(levels):,} different values in {rows:,} rows"
    if not all(map(is_number, levels)):
        return Problem("data.target", f"{count}: neither numbers nor classes", options.target)
    return Problem("data.kind", f"the target {count}, which are all numbers", options.kind, "data.kind=regression")


def _joined(columns: Sequence[Column]) -> Column:
    """Return one column of the rows of several."""
    if len(columns) == 1:
        return columns[0]
    if all(column.numbers is not None for column in columns):
        return Column(columns[0].name, np.concatenate([column.numbers for column in columns]))
    merged: dict[str, int] = {}
    parts = []
    for column in columns:
        codes, levels = column.as_texts()
        parts.append(np.array([*(merged.setdefault(level, len(merged)) for level in levels), -1], np.int64)[codes])
    return Column(columns[0].name, None, np.concatenate(parts), tuple(merged))


def _targets_of(column: Column, kind: str, layout: Layout | None) -> tuple[np.ndarray, list[str]]:
    """Return the targets and the names of their classes, in the order of their numbers."""
    if kind == "regression":
        return values_of(column, "number")[0], []
    codes, levels = column.as_texts()
    used = [levels[code] for code in np.unique(codes)]
    classes = layout["target"]["classes"] if layout else in_order(used)
    if unknown := [name for name in used if name not in classes]:
        names = ", ".join(map(shortened, unknown[:5]))
        raise ConfigError(
            [Problem("data.target", f"has classes that the run was not trained on: {names}", column.name)]
        )
    if len(classes) < 2 or (kind == "binary" and len(classes) != 2):
        expected = "two classes" if kind == "binary" else "at least two classes"
        names = ", ".join(map(shortened, classes[:5]))
        hint = "data.kind is regression, binary or multiclass"
        raise ConfigError(
            [Problem("data.target", f"expected {expected}, found {len(classes)}: {names}", column.name, hint)]
        )
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index.get(level, -1) for level in levels], np.int64)[codes], list(classes)


def _rows_of(
    options: TableOptions, tables: Mapping[str, TableFile], lengths: Sequence[int], targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the rows of each part: those of its own file, those that a column names, or those that are held out."""
    stops = np.cumsum(lengths)
    rows = {part: np.arange(stop - size, stop) for part, stop, size in zip(tables, stops, lengths, strict=True)}
    pool = rows["train"]
    if options.split is not None:
        main = tables["train"]
        codes, levels = main.columns[options.split].as_texts()
        parts = [part_named(level) for level in levels]
        if wrong := [level for level, part in zip(levels, parts, strict=True) if part is None] or (codes < 0).any():
            what = ", ".join(map(shortened, wrong[:5])) if isinstance(wrong, list) else "cells without a value"
            message = f"expected train, val or test in each row; found {what}"
            raise ConfigError([Problem("data.split", message, options.split)])
        named = np.array(parts)[codes]
        rows = {**rows, **{part: pool[named == part] for part in PARTS if part == "train" or (named == part).any()}}
    else:
        if options.folds is not None and "val" in rows:
            raise ConfigError(
                [Problem("data.folds", "the folds are validation parts, and data.val_file is one", options.folds)]
            )
        own = {part: 0 for part in PARTS[1:] if part in rows}
        held = replace(options.held_out, **{f"{part}_size": size for part, size in own.items()})
        rows = {**held.rows(pool, targets), **{part: rows[part] for part in own}}
    if not len(rows["train"]):
        raise ConfigError([Problem("data.split", "no row is left to train on", options.split)])
    return {part: rows.get(part, np.empty(0, np.int64)) for part in PARTS}

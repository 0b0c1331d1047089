"""The documents of a text data set: read from plain texts, JSON lines, CSV and Parquet files, and what does not fit."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrflow.data.listing import Listing, Misfit, entries, files_below, list_classes
from lrflow.data.splits import part_named
from lrflow.data.table.file import Column, Reading, read_table, text_column, undecodable
from lrflow.data.text.options import JSON_LINES, TABLES, TextOptions
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.files import did_you_mean_path, is_file, is_folder
from lrflow.hub import located
from lrflow.objectives import CLASSES


class Entry(NamedTuple):
    """A document in a file.

    Args:
        where: its line, row or paragraph; empty: it is the whole file.
        text: of the document.
        target: the name of its class; None: none is read.
        part: as the file names it; None: none is read.
    """

    where: str
    text: str
    target: str | None = None
    part: str | None = None


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a data set.

    Args:
        listing: their files, names, classes and parts.
        texts: of each.
        ignored: number of files in a folder whose names end otherwise.
    """

    listing: Listing
    texts: list[str]
    ignored: int = 0


def files_of(options: TextOptions) -> list[Path]:
    """Return the files that the options name or that lie in their folder, by which a change is noticed.

    Raises:
        ConfigError: there is no such folder or file.
    """
    if options.root is not None:
        home = _home(options)
        return [home / name for name in files_below(home) if name.lower().endswith(options.endings)]
    names = {"file": options.file, "val_file": options.val_file, "test_file": options.test_file}
    return [_existing(given, f"data.{name}") for name, given in names.items() if given is not None]


def read_documents(options: TextOptions) -> Documents:
    """Read all documents; those that do not fit are in `listing.mistakes`.

    Raises:
        ConfigError: there is no such folder, file or key, or no document.
    """
    if options.root is not None:
        return _of_folder(options, _home(options))
    texts: list[str] = []
    listing = Listing([], [], Column("class", None), [])
    targets: list[str] = []
    given = {"": options.file, "val": options.val_file, "test": options.test_file}
    for part, name in given.items():
        if name is None:
            continue
        key = f"data.{part}_file" if part else "data.file"
        path = _existing(name, key)
        for one in read_file(path, options, key):
            if isinstance(one, Misfit):
                where = f"{path}: {one.where}" if part else one.where
                listing.mistakes.append(one._replace(where=where.rstrip(": ")))
                continue
            own = part or (part_named(one.part) if one.part is not None else "")
            if own is None:
                message = f"expected train, val or test under {options.split}, found {shortened(str(one.part))}"
                listing.mistakes.append(Misfit(one.where, message, "documents without a part"))
                continue
            texts.append(one.text)
            listing.paths.append(str(path))
            listing.names.append(f"{path.name}, {one.where}" if one.where else path.name)
            listing.parts.append(own)
            targets.append(one.target or "")
    return Documents(Listing(listing.paths, listing.names, _column(targets), listing.parts, listing.mistakes), texts)


def read_file(path: Path, options: TextOptions, key: str, labelled: bool = True) -> Iterator[Entry | Misfit]:
    """Yield the documents of a file, and what does not fit, in their order.

    Args:
        path: the file.
        options: how it is read.
        key: config key that names the file.
        labelled: whether targets and parts are read.

    Raises:
        ConfigError: the file cannot be read, or has no such key or column.
    """
    wanted = {"column": options.column}
    if labelled:
        wanted |= {name: own for name in ("target", "split") if (own := getattr(options, name)) is not None}
    suffix = path.suffix.lower()
    try:
        if suffix in TABLES:
            found = _of_table(path, wanted, options, key)
        else:
            found = _of_json(path, wanted) if suffix in JSON_LINES else _of_text(path, options)
        for one in found:
            if isinstance(one, Entry) and not one.text.strip():
                yield Misfit(one.where, "is empty", "empty documents")
            else:
                yield one
    except OSError as error:
        yield Misfit("", f"cannot be read: {error.strerror or error}", "files that cannot be read")


def _home(options: TextOptions) -> Path:
    home = located(str(options.root), "data.root")
    if not is_folder(home):
        what = "is a file; expected a folder" if is_file(home) else "there is no such folder"
        raise ConfigError([Problem("data.root", what, options.root, did_you_mean_path(home))])
    return home


def _existing(given: str, key: str) -> Path:
    path = located(given, key)
    if not is_file(path):
        what = "is a folder; data.root=FOLDER reads the texts in it" if is_folder(path) else "there is no such file"
        raise ConfigError([Problem(key, what, given, None if is_folder(path) else did_you_mean_path(path))])
    return path


def _column(targets: Sequence[str]) -> Column:
    codes: dict[str, int] = {}
    found = np.array([codes.setdefault(one, len(codes)) for one in targets], np.int64)
    return text_column("class", found, list(codes), frozenset({""}))


def _of_folder(options: TextOptions, home: Path) -> Documents:
    ignored = 0
    if options.head == CLASSES:
        listing = list_classes(home, options.endings, "text")
    else:
        names = list(files_below(home))
        kept = [name for name in names if name.lower().endswith(options.endings)]
        ignored = len(names) - len(kept)
        if not kept:
            message = f"has no file that ends in {', '.join(options.endings)}"
            raise ConfigError([Problem("data.root", message, str(options.root), "data.endings=[...] sets others")])
        folders = entries(home)[1]
        are_parts = all(map(part_named, folders)) and "train" in map(part_named, folders)
        parts = [(part_named(name.partition("/")[0]) or "") if are_parts else "" for name in kept]
        paths = [str(home / name) for name in kept]
        listing = Listing(paths, kept, Column("class", None, np.zeros(len(kept), np.int64), ("",)), parts)
    parts = _parts_by_name(options, listing)
    texts, rows, mistakes = [], [], list(listing.mistakes)
    for row, (path, name) in enumerate(zip(listing.paths, listing.names, strict=True)):
        for one in read_file(Path(path), options, "data.root"):
            if isinstance(one, Misfit):
                mistakes.append(one._replace(where=f"{name}, {one.where}" if one.where else name))
            else:
                texts.append(one.text)
                rows.append((row, f"{name}, {one.where}" if one.where else name))
    index = np.array([row for row, _ in rows], np.int64)
    found = Listing(
        [listing.paths[row] for row in index],
        [name for _, name in rows],
        listing.target.at(index),
        [parts[row] for row in index],
        mistakes,
    )
    return Documents(found, texts, ignored)


def _parts_by_name(options: TextOptions, listing: Listing) -> list[str]:
    """Return the part of each file of a folder, with those that `val_file` and `test_file` match."""
    parts = list(listing.parts)
    for part in ("val", "test"):
        pattern = getattr(options, f"{part}_file")
        if pattern is None:
            continue
        rows = [row for row, name in enumerate(listing.names) if fnmatch(name, pattern)]
        if not rows:
            hint = did_you_mean(pattern, listing.names)
            message = "of data.root it is a pattern of paths below the folder, and matches no text"
            raise ConfigError([Problem(f"data.{part}_file", message, pattern, hint)])
        for row in rows:
            parts[row] = part
    return parts


def _of_text(path: Path, options: TextOptions) -> Iterator[Entry | Misfit]:
    encoding = _with_mark(options.encoding)
    try:
        text = path.read_text(encoding=encoding)
    except UnicodeError as error:
        mistake = undecodable(path, options.encoding, error)
        yield Misfit(f"line {mistake.line}", mistake.message, f"texts that are not {options.encoding}")
        return
    if options.documents == "file" or not text.strip():
        yield Entry("", text)
    elif options.documents == "lines":
        yield from (Entry(f"line {line}", one) for line, one in enumerate(text.split("\n"), 1) if one.strip())
    else:
        line, start = 1, 0
        for gap in [*re.finditer(r"\n[^\S\n]*\n\s*", text), None]:
            piece = text[start : gap.start() if gap else len(text)]
            if piece.strip():
                yield Entry(f"line {line}", piece)
            line += piece.count("\n") + (gap[0].count("\n") if gap else 0)
            start = gap.end() if gap else len(text)


def _of_json(path: Path, wanted: Mapping[str, str]) -> Iterator[Entry | Misfit]:
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, content in enumerate(file, 1):
            where = f"line {number}"
            try:
                line = content.decode("utf-8-sig" if number == 1 else "utf-8")
                row = json.loads(line) if line.strip() else None
            except UnicodeDecodeError as error:
                message = f"byte 0x{content[error.start]:02x} is not utf-8"
                yield Misfit(where, message, "lines that are not utf-8")
                continue
            except (ValueError, RecursionError) as error:
                yield Misfit(where, f"is no JSON: {str(error).partition(': ')[0]}", "lines that are no JSON")
                continue
            if line.strip():
                seen |= {*row} if isinstance(row, dict) else set()
                yield _of_row(where, row, wanted)
    if never := {name: key for name, key in wanted.items() if seen and key not in seen}:
        raise ConfigError(
            Problem(f"data.{name}", f"no line of {path} has this key", key, did_you_mean(key, seen))
            for name, key in never.items()
        )


def _of_row(where: str, row: Any, wanted: Mapping[str, str]) -> Entry | Misfit:
    if not isinstance(row, dict):
        return Misfit(where, f"expected an object, found {type(row).__name__}", "lines that are no objects")
    cells: dict[str, str] = {}
    for name, key in wanted.items():
        value = row.get(key)
        if value is None or (value == "" and name != "column"):
            near = did_you_mean(key, row) or ""
            near = f", {near}" if near.startswith("did you mean") else ""
            return Misfit(where, f"has no value under the key {shortened(key)}{near}", "lines without a key")
        if not isinstance(value, str) and (name == "column" or not isinstance(value, int | float)):
            message = f"expected text under the key {shortened(key)}, found {type(value).__name__}"
            return Misfit(where, message, "lines with values of another kind")
        cells[name] = value if isinstance(value, str) else json.dumps(value)
    return Entry(where, cells["column"], cells.get("target"), cells.get("split"))


def _of_table(path: Path, wanted: Mapping[str, str], options: TextOptions, key: str) -> Iterator[Entry | Misfit]:
    reading = Reading(encoding=options.encoding, missing=("",), texts=frozenset(wanted.values()), skip=True)
    table = read_table(path, reading, key)
    problems = [
        Problem(f"data.{name}", f"{path} has no such column", column, did_you_mean(column, table.columns))
        for name, column in wanted.items()
        if column not in table.columns
    ]
    if problems:
        raise ConfigError(problems)
    for mistake in table.mistakes:
        yield Misfit(f"{table.row} {mistake.line}", mistake.message, "rows that cannot be read")
    columns = {name: table.columns[column].as_texts() for name, column in wanted.items()}
    for row, line in enumerate(table.lines.tolist()):
        cells = {name: levels[codes[row]] if codes[row] >= 0 else "" for name, (codes, levels) in columns.items()}
        where = f"{table.row} {line}"
        if lacking := next((name for name in cells if name != "column" and not cells[name]), None):
            yield Misfit(where, f"no value in the column {shortened(wanted[lacking])}", "rows without a value")
        else:
            yield Entry(where, cells["column"], cells.get("target"), cells.get("split"))


def _with_mark(encoding: str) -> str:
    """Return the encoding that also reads a byte order mark."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding

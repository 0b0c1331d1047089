"""Which files of a folder belong to a data set, with their classes and parts, in an order without chance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import RenderableType

from lrflow.data.splits import PARTS, HeldOut, part_named
from lrflow.data.table.columns import in_order
from lrflow.data.table.file import SHOWN, Column
from lrflow.display import Grid
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.wording import joined

SKIP = "data.bad_files=skip leaves these out and counts them"

_LISTED = 20
"""Number of classes up to which each has a line of its own in a table."""

_JUNK = ("thumbs.db", "desktop.ini", "__macosx")
"""Names that other systems hide."""


class Misfit(NamedTuple):
    """A file, or an example in it, that does not fit.

    Args:
        where: its path below the folder, or its line.
        message: what is wrong with it.
        reason: under which it is counted.
        files: number of files for which it stands.
    """

    where: str
    message: str
    reason: str
    files: int = 1


def misfit_problem(mistakes: Sequence[Misfit], key: str, value: object, skips: bool) -> Problem:
    """Return the problem of files that do not fit: the first few of them, and the number of the others.

    Args:
        mistakes: in the order of the message.
        key: config key that names the files.
        value: of that key.
        skips: whether such files are left out, so that the message need not say how.
    """
    texts = [f"{one.where}: {one.message}" if one.where else one.message for one in mistakes[:SHOWN]]
    texts += [f"and {len(mistakes) - SHOWN:,} more"] if len(mistakes) > SHOWN else []
    return Problem(key, "; ".join(texts), value, None if skips else SKIP)


def counted_reasons(mistakes: Sequence[Misfit]) -> dict[str, int]:
    """Return the number of files that were left out, by the reason."""
    skipped: dict[str, int] = {}
    for one in mistakes:
        skipped[one.reason] = skipped.get(one.reason, 0) + one.files
    return skipped


def left_out_lines(skipped: Mapping[str, int]) -> list[str]:
    """Return a line per reason for which something was left out, with the count."""
    return [f"left out: {reason} ({count:,})" for reason, count in skipped.items()]


@dataclass(frozen=True, eq=False)
class Listing:
    """The examples of a data set, in an order that does not depend on the file system.

    Args:
        paths: of the file of each.
        names: of the examples, for people: their paths below the folder, or their lines.
        target: a column of the names of classes, or of the targets in a file.
        parts: of each example: its part, or an empty text if a part may be held out of these.
        mistakes: files that do not fit.
        weights: float64, of each example; None: they have none.
    """

    paths: list[str]
    names: list[str]
    target: Column
    parts: list[str]
    mistakes: list[Misfit] = field(default_factory=list)
    weights: np.ndarray | None = None


def list_classes(home: Path, endings: tuple[str, ...], noun: str) -> Listing:
    """Return the files in a folder for each class, or in folders `train`, `val` and `test` of these.

    Args:
        home: the folder.
        endings: of the names of the files, in lower case.
        noun: what a file holds, such as `image`.

    Raises:
        ConfigError: there are fewer than two classes.
    """
    own, folders = entries(home)
    parts = {folder: part_named(folder) for folder in folders}
    has_parts = bool(folders) and all(parts.values()) and "train" in parts.values()
    listing = Listing([], [], Column("class", None), [])
    codes: dict[str, int] = {}
    found: list[int] = []
    for part_folder in in_order(folders) if has_parts else [""]:
        part = (parts[part_folder] or "") if has_parts else ""
        if has_parts:
            own, folders = entries(home / part_folder)
        prefix = f"{part_folder}/" if has_parts else ""
        for name in own:
            if name.lower().endswith(endings):
                listing.mistakes.append(
                    Misfit(f"{prefix}{name}", "lies in no folder of a class", f"{noun}s without a class")
                )
        for folder in in_order(folders):
            before = len(listing.paths)
            for name in (f"{prefix}{folder}/{name}" for name in files_below(home / prefix / folder)):
                if name.lower().endswith(endings):
                    listing.paths.append(str(home / name))
                    listing.names.append(name)
                    listing.parts.append(part)
                else:
                    listing.mistakes.append(Misfit(name, f"is no {noun}", f"files that are no {noun}s"))
            count = len(listing.paths) - before
            if not count and (part in ("", "train")):
                listing.mistakes.append(Misfit(f"{prefix}{folder}", f"has no {noun}s", "empty folders of classes"))
            found += [codes.setdefault(folder, len(codes))] * count
    if len(codes) < 2:
        raise ConfigError([_too_few_classes(home, sorted(codes), noun)])
    target = Column("class", None, np.array(found, np.int64), tuple(codes))
    return Listing(listing.paths, listing.names, target, listing.parts, listing.mistakes)


def _too_few_classes(home: Path, classes: Sequence[str], noun: str) -> Problem:
    hint = None
    for inner in sorted(entries(home)[1]):
        if len(entries(home / inner)[1]) > 1:
            hint = f"did you mean {home / inner}?"
    hint = hint or f"the {noun}s of each class lie in a folder with its name; or data.file=FILE.csv"
    what = f"one, {shortened(classes[0])}" if classes else "none"
    message = f"expected folders of at least two classes with {noun}s, found {what}"
    return Problem("data.root", message, str(home), hint)


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files and of the folders in a folder, in order; hidden ones are left out."""
    files, folders = [], []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file() or entry.is_symlink():  # a link to nothing is reported when it is read
                    files.append(entry.name)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ConfigError([Problem("data.root", message, str(folder))]) from None
    return sorted(files), sorted(folders)


def files_below(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the paths of all files below a folder, in order; a link to a folder above is not followed."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    files, folders = entries(folder)
    yield from files
    for inner in folders:
        for name in files_below(folder / inner, (*above, identity)):
            yield f"{inner}/{name}"


def classes_of(
    listing: Listing, kept: np.ndarray, layout: Mapping[str, Any] | None, mistakes: list[Misfit], noun: str
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return class numbers, the names of the classes, and the examples whose class the training part has.

    Args:
        listing: all examples.
        kept: indices of those that can be read.
        layout: what an earlier training was fitted to, with its classes; None: they are those of the training part.
        mistakes: gets the examples of other classes.
        noun: what an example is.
    """
    codes, levels = listing.target.as_texts()
    parts = np.array(listing.parts, np.str_)
    trained = kept[(parts[kept] == "") | (parts[kept] == "train")]
    classes = layout["target"]["classes"] if layout else in_order([levels[code] for code in np.unique(codes[trained])])
    number = {name: index for index, name in enumerate(classes)}
    lookup = np.array([*(number.get(level, -1) for level in levels), -1], np.int64)
    targets = lookup[codes]
    unknown = kept[targets[kept] < 0]
    for code in np.unique(codes[unknown]):
        rows = unknown[codes[unknown] == code]
        near = did_you_mean(levels[code], classes) or ""
        message = f"the class {shortened(levels[code])} is not in the training part"
        message += f", {near}" if near.startswith("did you mean") else ""
        reason = f"{noun}s of classes that the training part lacks"
        mistakes.append(Misfit(listing.names[rows[0]], message, reason, len(rows)))
    return targets, list(classes), np.setdiff1d(kept, unknown)


def check_trained(
    targets: np.ndarray, train: np.ndarray, classes: Sequence[str], noun: str, size: object, hint: str = ""
) -> None:
    """Check that the training part has an example of each class of which there are examples.

    Args:
        targets: class numbers of all examples, or numbers if there are no classes.
        train: indices of the training part.
        classes: their names.
        noun: what an example is.
        size: `data.val_size`.
        hint: what helps, besides to hold out fewer.

    Raises:
        ConfigError: it has not.
    """
    if classes and (empty := sorted(set(targets.tolist()) - set(targets[train].tolist()) - {-1})):
        names = ", ".join(shortened(classes[code]) for code in empty[:5])
        message = f"no {noun} of {names} is left to train on"
        raise ConfigError([Problem("data.val_size", message, size, f"hold out fewer, or {hint or f'add {noun}s'}")])


def class_table(
    classes: Sequence[str], targets: np.ndarray, rows: Mapping[str, np.ndarray], heading: str = "class"
) -> RenderableType:
    """Return the number of examples of each class in each part; of many classes, one line with their totals.

    Args:
        classes: their names.
        targets: class numbers of all examples.
        rows: of each part, the indices of its examples.
        heading: of the names.
    """
    names = list(map(shortened, classes))
    counts = [np.bincount(targets[rows[part]], minlength=len(names)) for part in PARTS]
    if len(names) > _LISTED:
        totals = zip(names, np.sum(counts, 0), strict=True)
        return f"{len(names):,} classes: {joined([f'{name} {total:,}' for name, total in totals], 6)}"
    grid = Grid(f"<{heading}", *PARTS)
    for index, name in enumerate(names):
        grid.row(name, *(f"{count[index]:,}" for count in counts))
    return grid


def rows_of(
    held_out: HeldOut, parts_of_all: Sequence[str], kept: np.ndarray, targets: np.ndarray, noun: str, nothing: Problem
) -> dict[str, np.ndarray]:
    """Return the examples of each part, which folders or a column define, or which are held out.

    Args:
        held_out: what is held out where they define no part for validation.
        parts_of_all: the part of each example, as in `Listing`.
        kept: indices of the examples that are used.
        targets: of all examples.
        noun: what an example is.
        nothing: the problem that none is left to train on.

    Raises:
        ConfigError: none is left to train on, or there is a part for validation and there are folds.
    """
    parts = np.array(parts_of_all, np.str_)[kept]
    named = {part: kept[parts == part] for part in PARTS}
    pool = kept[parts == ""]
    given = {part for part in PARTS if len(named[part])}
    if not len(pool):  # the parts are given, and at most a lacking one for validation is held out
        pool, given = named["train"], given | {"test"}
    if not len(pool):
        raise ConfigError([nothing])
    if held_out.folds is not None and "val" in given:
        raise ConfigError([Problem("data.folds", "there is a part for validation already", held_out.folds)])
    held = replace(held_out, **{f"{part}_size": 0 for part in PARTS[1:] if part in given})
    rows = held.rows(pool, targets, f"{noun}s")
    return {part: named[part] if part in given and part != "train" else rows[part] for part in PARTS}

"""Which images there are, their targets and parts: found in the folders of classes or in a CSV file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrflow.data.image_decoding import FILE_TYPES, FITS, MODES, Form
from lrflow.data.splits import HeldOut, part_named
from lrflow.data.table_columns import in_order, values_of
from lrflow.data.table_file import SHOWN, Column, Reading, TableFile, read_table
from lrflow.data.table_parts import TARGETS, target_kind, wrong_weights
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.files import did_you_mean_path, is_file, is_folder
from lrflow.limits import Limit, is_whole, one_of, outside, whole

_SKIP = "data.bad_files=skip leaves these out and counts them"
_JUNK = ("thumbs.db", "desktop.ini", "__macosx")
"""Names that other systems hide."""
_LARGEST = 8192

_LIMITS = {
    "size": Limit(
        f"pixels from 1 to {_LARGEST}, or [height, width]",
        lambda value: all(is_whole(one) and 1 <= one <= _LARGEST for one in _pair(value)),
    ),
    "mode": one_of(*MODES),
    "fit": one_of(*FITS),
    "kind": one_of(*TARGETS).or_null(),
    "bad_files": one_of("error", "skip"),
    "cache": Limit("auto, none, or a folder", lambda value: isinstance(value, str) and bool(value)),
    "decoders": whole(1, 256).or_null(),
    "path": Limit("the name of a column", lambda value: isinstance(value, str) and bool(value)),
    "target": Limit("the name of a column", lambda value: isinstance(value, str) and bool(value)),
}


class Misfit(NamedTuple):
    """A file that does not fit.

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


def _pair(size: Any) -> tuple[Any, Any]:
    """Return a size as height and width; what is none gives two values that are none either."""
    if isinstance(size, list | tuple):
        return (size[0], size[1]) if len(size) == 2 else (None, None)
    return size, size


@dataclass(frozen=True)
class ImageOptions:
    """The options of `data=images` for its files; the arguments of `lrflow.data.Images` have the same names."""

    root: str | None = None
    file: str | None = None
    path: str = "path"
    target: str = "target"
    kind: str | None = None
    split: str | None = None
    weight: str | None = None
    size: int | tuple[int, int] = 64
    mode: str = "RGB"
    fit: str = "crop"
    bad_files: str = "error"
    cache: str = "auto"
    decoders: int | None = None
    val_size: int | float | str = 0
    test_size: int | float | str = 0
    folds: int | None = None
    fold: int = 0
    split_seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ImageOptions:
        """Return the options of a config node; keys of other arguments are left out.

        Raises:
            ConfigError: every invalid value.
        """
        own = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        problems = outside(_LIMITS, own, "data")
        for name in ("root", "file", "split", "weight"):
            if own.get(name) is not None and not isinstance(own[name], str):
                problems.append(Problem(f"data.{name}", "expected text, or null", own[name]))
        if own.get("root") is None and own.get("file") is None:
            hint = "data.root=FOLDER, or data.file=FILE.csv"
            problems.append(Problem("data.root", "expected a folder with a folder for each class", hint=hint))
        elif own.get("split") is not None and own.get("file") is None:
            message = "is a column of data.file; without one, folders named train, val and test are the parts"
            problems.append(Problem("data.split", message, own["split"]))
        if own.get("weight") is not None and own.get("file") is None:
            problems.append(Problem("data.weight", "is a column of data.file, which is not set", own["weight"]))
        if isinstance(own.get("size"), list):
            own["size"] = tuple(own["size"])
        found = cls(**own)
        problems += found.held_out.problems()
        if problems:
            raise ConfigError(problems)
        return found

    @property
    def held_out(self) -> HeldOut:
        """What is held out for validation and test where no folder and no column defines the parts."""
        return HeldOut.of(vars(self))

    @property
    def form(self) -> Form:
        """The form in which all images are read."""
        height, width = _pair(self.size)
        return Form(height, width, self.mode, self.fit)

    @property
    def skips(self) -> bool:
        """Whether bad files are left out and counted."""
        return self.bad_files == "skip"

    @property
    def home(self) -> Path:
        """The folder to which paths are relative."""
        return Path(self.root) if self.root is not None else Path(str(self.file)).parent

    def mistaken(self, mistakes: Sequence[Misfit]) -> Problem:
        """Return the problem of files that do not fit: the first few of them, and the number of the others.

        Args:
            mistakes: in the order of the message.
        """
        texts = [f"{one.where}: {one.message}" for one in mistakes[:SHOWN]]
        texts += [f"and {len(mistakes) - SHOWN:,} more"] if len(mistakes) > SHOWN else []
        key, value = ("file", self.file) if self.file is not None else ("root", self.root)
        return Problem(f"data.{key}", "; ".join(texts), value, None if self.skips else _SKIP)


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a data set, in an order that does not depend on the file system.

    Args:
        paths: of the images.
        names: of the images, for people: their paths below the folder, or their lines.
        target: a column of the names of classes, or of the targets in the CSV file.
        parts: of each image: its part, or an empty text if a part may be held out of these.
        mistakes: files that do not fit.
        weights: float64, of each image; None: they have none.
    """

    paths: list[str]
    names: list[str]
    target: Column
    parts: list[str]
    mistakes: list[Misfit] = field(default_factory=list)
    weights: np.ndarray | None = None


def list_images(options: ImageOptions) -> Listing:
    """Return the images; nothing is decoded.

    Raises:
        ConfigError: there is no such folder, file or column, there are no images or fewer than two classes.
    """
    if options.root is not None and not is_folder(home := options.home):
        what = "is a file; expected a folder" if is_file(home) else "there is no such folder"
        raise ConfigError([Problem("data.root", what, options.root, did_you_mean_path(home))])
    return _of_file(options) if options.file is not None else _of_folders(options)


def _of_folders(options: ImageOptions) -> Listing:
    home = options.home
    own, folders = _entries(home)
    parts = {folder: part_named(folder) for folder in folders}
    has_parts = bool(folders) and all(parts.values()) and "train" in parts.values()
    listing = Listing([], [], Column("class", None), [])
    codes: dict[str, int] = {}
    found: list[int] = []
    for part_folder in in_order(folders) if has_parts else [""]:
        part = (parts[part_folder] or "") if has_parts else ""
        if has_parts:
            own, folders = _entries(home / part_folder)
        prefix = f"{part_folder}/" if has_parts else ""
        for name in own:
            if name.lower().endswith(FILE_TYPES):
                listing.mistakes.append(
                    Misfit(f"{prefix}{name}", "lies in no folder of a class", "images without a class")
                )
        for folder in in_order(folders):
            before = len(listing.paths)
            for name in (f"{prefix}{folder}/{name}" for name in _files_below(home / prefix / folder, ())):
                if name.lower().endswith(FILE_TYPES):
                    listing.paths.append(str(home / name))
                    listing.names.append(name)
                    listing.parts.append(part)
                else:
                    listing.mistakes.append(Misfit(name, "is no image", "files that are no images"))
            count = len(listing.paths) - before
            if not count and (part in ("", "train")):
                listing.mistakes.append(Misfit(f"{prefix}{folder}", "has no images", "empty folders of classes"))
            found += [codes.setdefault(folder, len(codes))] * count
    if len(codes) < 2:
        raise ConfigError([_too_few_classes(options, sorted(codes))])
    target = Column("class", None, np.array(found, np.int64), tuple(codes))
    return Listing(listing.paths, listing.names, target, listing.parts, listing.mistakes)


def _too_few_classes(options: ImageOptions, classes: Sequence[str]) -> Problem:
    home, hint = options.home, None
    for inner in sorted(_entries(home)[1]):
        if len(_entries(home / inner)[1]) > 1:
            hint = f"did you mean {home / inner}?"
    hint = hint or "the images of each class lie in a folder with its name; or data.file=FILE.csv"
    what = f"one, {shortened(classes[0])}" if classes else "none"
    message = f"expected folders of at least two classes with images, found {what}"
    return Problem("data.root", message, options.root, hint)


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files and of the folders in a folder, in order; hidden ones are left out."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file() or entry.is_symlink():  # a link to nothing is reported when it is decoded
                    files.append(entry.name)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ConfigError([Problem("data.root", message, str(folder))]) from None
    return sorted(files), sorted(folders)


def _files_below(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the paths of all files below a folder, in order; a link to a folder above is not followed."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    files, folders = _entries(folder)
    yield from files
    for inner in folders:
        for name in _files_below(folder / inner, (*above, identity)):
            yield f"{inner}/{name}"


def _of_file(options: ImageOptions) -> Listing:
    path = Path(str(options.file))
    labels = {options.target} if options.kind in ("binary", "multiclass") else set()
    texts = frozenset({options.path, *labels, *([options.split] if options.split else ())})
    table = read_table(path, Reading(texts=texts, skip=True), "data.file")
    problems = [
        Problem(f"data.{key}", f"{path} has no such column", name, did_you_mean(name, table.columns))
        for key in ("path", "target", "split", "weight")
        for name in [getattr(options, key)]
        if name is not None and name not in table.columns
    ]
    if problems:
        raise ConfigError(problems)
    bad = {one.line: (one.message, "lines that cannot be read") for one in table.mistakes}
    target = table.columns[options.target]
    kind = options.kind or target_kind(target)
    strange = values_of(target, "number")[1] if kind == "regression" else {}
    absent = target.is_missing
    weights = table.columns[options.weight] if options.weight is not None else None
    unweighted = set(wrong_weights(weights)) if weights is not None else ()
    parts = _parts_of(options, table)
    codes, levels = table.columns[options.path].as_texts()
    paths, names, kept = [], [], []
    for row, line in enumerate(table.lines.tolist()):
        name = levels[codes[row]] if codes[row] >= 0 else ""
        where = options.home / name
        if not name:
            bad[line] = f"no path in the column {shortened(options.path)}", "lines without a path"
        elif row in strange:
            bad[line] = f"the target {shortened(strange[row])!r} is no number", "targets that are no numbers"
        elif absent[row]:
            bad[line] = f"no value in the column {shortened(options.target)}", "lines without a target"
        elif row in unweighted:
            bad[line] = f"expected a weight of at least 0 in {shortened(str(options.weight))}", "lines without a weight"
        elif not is_file(where):
            near = (len(bad) < SHOWN and did_you_mean_path(where)) or ""
            near = f", {near}" if near.startswith("did you mean") else ""
            bad[line] = f"there is no file {shortened(str(where), 200)}{near}", "files that do not exist"
        elif parts[row] is None:
            bad[line] = f"expected train, val or test in the column {options.split}", "lines without a part"
        else:
            paths.append(str(where))
            names.append(f"{table.row} {line}: {shortened(name, 200)}")
            kept.append(row)
    mistakes = [Misfit(f"{table.row} {line}", *bad[line]) for line in sorted(bad)]
    parts_kept = [parts[row] or "" for row in kept]
    rows = np.array(kept, np.int64)
    own = values_of(weights, "number")[0][rows] if weights is not None else None
    return Listing(paths, names, target.at(rows), parts_kept, mistakes, own)


def _parts_of(options: ImageOptions, table: TableFile) -> list[str | None]:
    """Return the part of each row; an empty text if the file has no column of parts, None if a cell names none."""
    if options.split is None:
        return [""] * len(table.lines)
    codes, levels = table.columns[options.split].as_texts()
    named = [*map(part_named, levels), None]
    return [named[code] for code in codes.tolist()]

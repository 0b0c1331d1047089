"""Which images there are, their targets and parts: found in the folders of classes or in a CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.images.decoding import FILE_TYPES, FITS, MODES, SIZES, Form
from lrflow.data.listing import Listing, Misfit, list_classes, misfit_problem
from lrflow.data.splits import HeldOut, part_named
from lrflow.data.table.columns import values_of
from lrflow.data.table.file import SHOWN, Reading, TableFile, read_table
from lrflow.data.table.parts import TARGETS, target_kind, wrong_weights
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.files import did_you_mean_path, is_file, is_folder
from lrflow.limits import Limit, one_of, outside, whole

_LIMITS = {
    "size": SIZES,
    "mode": one_of(*MODES),
    "fit": one_of(*FITS),
    "kind": one_of(*TARGETS).or_null(),
    "bad_files": one_of("error", "skip"),
    "cache": Limit("auto, none, or a folder", lambda value: isinstance(value, str) and bool(value)),
    "decoders": whole(1, 256).or_null(),
    "path": Limit("the name of a column", lambda value: isinstance(value, str) and bool(value)),
    "target": Limit("the name of a column", lambda value: isinstance(value, str) and bool(value)),
}


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
    val_size: int | float | str = "15%"
    test_size: int | float | str = "15%"
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
        height, width = self.size if isinstance(self.size, list | tuple) else (self.size, self.size)
        return Form(height, width, self.mode, self.fit)

    @property
    def skips(self) -> bool:
        """Whether bad files are left out and counted."""
        return self.bad_files == "skip"

    @property
    def home(self) -> Path:
        """The folder to which paths are relative."""
        return Path(self.root) if self.root is not None else Path(str(self.file)).parent

    @property
    def named(self) -> tuple[str, str | None]:
        """The key that names the images, and its value."""
        return ("data.file", self.file) if self.file is not None else ("data.root", self.root)

    def mistaken(self, mistakes: Sequence[Misfit]) -> Problem:
        """Return the problem of files that do not fit: the first few of them, and the number of the others."""
        return misfit_problem(mistakes, *self.named, self.skips)


def list_images(options: ImageOptions) -> Listing:
    """Return the images; nothing is decoded.

    Raises:
        ConfigError: there is no such folder, file or column, there are no images or fewer than two classes.
    """
    if options.root is not None and not is_folder(home := options.home):
        what = "is a file; expected a folder" if is_file(home) else "there is no such folder"
        raise ConfigError([Problem("data.root", what, options.root, did_you_mean_path(home))])
    return _of_file(options) if options.file is not None else list_classes(options.home, FILE_TYPES, "image")


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

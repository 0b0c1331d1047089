"""The samples of all shards with their targets and parts: found, counted and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.images.decoding import FITS, MODES, SIZES, Form
from lrflow.data.listing import Misfit, misfit_problem
from lrflow.data.splits import PARTS, HeldOut
from lrflow.data.stream.parquet import Columns, choose_columns, index_parquet
from lrflow.data.stream.shards import find_shards, is_parquet
from lrflow.data.stream.tar import File, choose_files, index_tar
from lrflow.data.stream.values import Places
from lrflow.data.table.file import Column
from lrflow.data.table.parts import TARGETS
from lrflow.errors import ConfigError, Problem
from lrflow.limits import Limit, is_whole, one_of, outside, whole

ALL = "all"


def _is_text_or_list(value: Any) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return bool(several) and all(isinstance(one, str) and one for one in several)


_PATHS = Limit("a path, or a list of paths", _is_text_or_list)
_LIMITS = {
    "shards": _PATHS,
    "val_shards": _PATHS.or_null(),
    "test_shards": _PATHS.or_null(),
    "input": Limit("an ending or a column, or a list of columns", _is_text_or_list).or_null(),
    "target": Limit("an ending or a column", lambda value: isinstance(value, str) and bool(value)).or_null(),
    "kind": one_of(*TARGETS).or_null(),
    "size": SIZES,
    "mode": one_of(*MODES),
    "fit": one_of(*FITS),
    "scaling": one_of("standard", "none"),
    "shuffle": whole(1),
    "shards_at_once": whole(1, 1024),
    "check": Limit(f"a whole number from 1, or {ALL}", lambda value: value == ALL or (is_whole(value) and value > 0)),
    "bad_files": one_of("error", "skip"),
}


@dataclass(frozen=True)
class StreamOptions:
    """The options of `data=stream` for its shards; the arguments of `lrflow.data.Stream` have the same names."""

    shards: str | tuple[str, ...]
    val_shards: str | tuple[str, ...] | None = None
    test_shards: str | tuple[str, ...] | None = None
    input: str | tuple[str, ...] | None = None
    target: str | None = None
    kind: str | None = None
    size: int | tuple[int, int] = 64
    mode: str = "RGB"
    fit: str = "crop"
    scaling: str = "standard"
    shuffle: int = 10000
    shards_at_once: int = 8
    check: int | str = 1000
    bad_files: str = "error"
    val_size: int | float | str = "10%"
    test_size: int | float | str = 0
    folds: int | None = None
    fold: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> StreamOptions:
        """Return the options of a config node; keys of other arguments are left out.

        Raises:
            ConfigError: every invalid value.
        """
        own = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        if own.get("shards") is None:
            hint = "data.shards='train-{000..009}.tar', a folder, or a pattern such as 'train-*.parquet'"
            raise ConfigError([Problem("data.shards", "expected the shards to train on", hint=hint)])
        problems = outside(_LIMITS, own, "data")
        problems += HeldOut.of(own).problems()
        if own.get("folds") is not None and own.get("val_shards") is not None:
            problems.append(Problem("data.folds", "data.val_shards is a part for validation already", own["folds"]))
        if problems:
            raise ConfigError(problems)
        own |= {name: tuple(value) for name, value in own.items() if isinstance(value, list)}
        return cls(**own)

    @property
    def held_out(self) -> HeldOut:
        """What is held out for validation and test where they have no shards of their own."""
        return HeldOut.of(vars(self))

    @property
    def form(self) -> Form:
        """The form in which images are read."""
        height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return Form(height, width, self.mode, self.fit)

    @property
    def skips(self) -> bool:
        """Whether bad samples and shards are left out and counted."""
        return self.bad_files == "skip"

    @property
    def text(self) -> str:
        """The shards as they were given, for people."""
        return self.shards if isinstance(self.shards, str) else ", ".join(self.shards)

    def mistaken(self, mistakes: Sequence[Misfit]) -> Problem:
        """Return the problem of samples that do not fit."""
        return misfit_problem(mistakes, "data.shards", self.text, self.skips)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of all shards that have an input and a target.

    Args:
        places: where they lie.
        target: of each of them.
        parts: of each shard, the part that the config gives it; empty: some of its samples may be held out.
        source: which file or columns are the input.
        label: name of the target.
        mistakes: shards and samples that do not fit.
    """

    places: Places
    target: Column
    parts: list[str]
    source: File | Columns
    label: str
    mistakes: list[Misfit] = field(default_factory=list)

    def at(self, rows: np.ndarray) -> Samples:
        """Some of the samples."""
        return replace(self, places=self.places.at(rows), target=self.target.at(rows))


def shards_of_parts(options: StreamOptions) -> dict[str, list[Path]]:
    """Return the shards of each part; those of the part without a name are trained on, or held out of.

    Raises:
        ConfigError: there are no such shards, they are of different kinds, or one belongs to two parts.
    """
    given = {"": options.shards, "val": options.val_shards, "test": options.test_shards}
    keys = {"": "data.shards", "val": "data.val_shards", "test": "data.test_shards"}
    found: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for part, names in given.items():
        try:
            found[part] = find_shards(names, keys[part]) if names is not None else []
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    known = {path.resolve() for path in found[""]}
    for part in PARTS[1:]:
        if both := next((path for path in found[part] if path.resolve() in known), None):
            raise ConfigError([Problem(keys[part], f"names {both}, which another part has too", given[part])])
        if found[part] and is_parquet(found[part][0]) != is_parquet(found[""][0]):
            raise ConfigError([Problem(keys[part], "expected shards of the same kind as data.shards", given[part])])
        known |= {path.resolve() for path in found[part]}
    return found


def find_samples(options: StreamOptions) -> Samples:
    """Return the samples of all shards; of their inputs nothing is read.

    Raises:
        ConfigError: there are no such shards, or their samples have no such files or columns.
    """
    found = shards_of_parts(options)
    paths = [path for files in found.values() for path in files]
    parts = [part for part, files in found.items() for _ in files]
    read = _of_parquet if is_parquet(paths[0]) else _of_tar
    return read(paths, parts, options)


def _of_tar(paths: list[Path], parts: list[str], options: StreamOptions) -> Samples:
    if isinstance(options.input, tuple):
        message = "expected the ending of one file of each sample, such as png, npy or json.KEY"
        raise ConfigError([Problem("data.input", message, list(options.input))])
    source, label = choose_files(paths[0], options.input, options.target)
    places, targets, counts = [], [], []
    mistakes: list[Misfit] = []
    for path in paths:
        index = index_tar(path, source, label)
        places.append(np.array(index.places, np.int64).reshape(-1, 2))
        targets += index.targets
        counts.append(len(index.places))
        mistakes += index.mistakes
    shard = np.repeat(np.arange(len(paths), dtype=np.int32), counts)
    found = Places([str(path) for path in paths], shard, shard, np.concatenate(places))
    return Samples(found, _column(label.name, targets), parts, source, label.name, mistakes)


def _column(name: str, texts: Sequence[str], may_be_numbers: bool = True) -> Column:
    """Return texts as a column: of numbers if all of them are numbers and they may be."""
    levels, codes = np.unique(np.array(texts, np.str_), return_inverse=True)
    if not may_be_numbers:
        return Column(name, None, codes.astype(np.int64), tuple(levels.tolist()))
    try:
        numbers = np.array([float(level) for level in levels.tolist() if "_" not in level])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) == len(levels) and np.isfinite(numbers).all():
        return Column(name, numbers[codes])
    return Column(name, None, codes.astype(np.int64), tuple(levels.tolist()))


def _of_parquet(paths: list[Path], parts: list[str], options: StreamOptions) -> Samples:
    import pyarrow
    from pyarrow import types

    columns, label = choose_columns(paths, options.input, options.target)
    mistakes: list[Misfit] = []
    shard, unit, place, targets = [], [], [], []
    units = 0
    for number, path in enumerate(paths):
        groups, values, rows, wrong = index_parquet(path, columns)
        mistakes += wrong
        if values is None:
            continue
        place.append(_places_of(groups, rows))
        unit.append((place[-1][:, 0] + units).astype(np.int32))
        shard.append(np.full(len(rows), number, np.int32))
        units += len(groups)
        targets.append(values)
    arrays = [np.concatenate(one) if one else np.empty(0, np.int32) for one in (shard, unit)]
    places = np.concatenate(place) if place else np.empty((0, 2), np.int64)
    found = Places([str(path) for path in paths], arrays[0], arrays[1], places)
    joined = pyarrow.chunked_array(targets).combine_chunks() if targets else pyarrow.array([], pyarrow.int64())
    if types.is_integer(joined.type) or types.is_floating(joined.type) or types.is_boolean(joined.type):
        numbers = joined.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        target = Column(label, numbers)
    else:
        target = _column(label, [str(one) for one in joined.to_pylist()], may_be_numbers=False)
    return Samples(found, target, parts, columns, label, mistakes)


def _places_of(groups: Sequence[int], rows: np.ndarray) -> np.ndarray:
    """Return the row group of each row and its row there; int64 [rows, 2]."""
    ends = np.cumsum(np.array(groups, np.int64))
    group = np.searchsorted(ends, rows, "right")
    return np.stack([group, rows - (ends - groups)[group] if len(rows) else rows], 1).astype(np.int64)


def find_inputs(path: Path, source: File | Columns) -> tuple[Places, list[Misfit]]:
    """Return the samples of a shard, with or without targets; for predictions.

    Args:
        path: of the shard, of the kind that the run was trained on.
        source: which file or columns are the input.
    """
    if isinstance(source, File):
        index = index_tar(path, source, None)
        place, mistakes = np.array(index.places, np.int64).reshape(-1, 2), index.mistakes
    else:
        groups, _, rows, mistakes = index_parquet(path, source)
        place = _places_of(groups, rows)
    none = np.zeros(len(place), np.int32)
    return Places([str(path)], none, none, place), mistakes


def rows_of_parts(options: StreamOptions, samples: Samples) -> dict[str, np.ndarray]:
    """Return the samples of each part: those of its own shards, or the last ones in the order of the shards.

    Those of a fold follow each other in that order.

    Raises:
        ConfigError: none is left to train on.
    """
    part = np.array(samples.parts, np.str_)[samples.places.shard]
    pool = np.flatnonzero(part == "")
    if not len(pool):
        raise ConfigError([Problem("data.shards", "no sample is left to train on", options.text)])
    own = {name for name in PARTS[1:] if getattr(options, f"{name}_shards") is not None}
    held = replace(options.held_out, **{f"{name}_size": 0 for name in own})
    rows = held.rows(pool, np.zeros(len(part)), "samples", shuffled=False)
    return rows | {name: np.flatnonzero(part == name) for name in own}

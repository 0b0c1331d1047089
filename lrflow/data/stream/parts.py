"""Shards prepared for training: found, checked, divided into parts, and fitted to some samples of the training part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.data.listing import Misfit, check_trained, counted_reasons, misfit_problem
from lrflow.data.splits import PARTS, kept_rows
from lrflow.data.stream.files import (
    ALL,
    Samples,
    StreamOptions,
    find_inputs,
    find_samples,
    rows_of_parts,
    shards_of_parts,
)
from lrflow.data.stream.parquet import Columns
from lrflow.data.stream.shards import PARQUET, TAR, is_parquet
from lrflow.data.stream.tar import File
from lrflow.data.stream.values import Input, Reader, read_some
from lrflow.data.table.columns import in_order, values_of
from lrflow.data.table.parts import target_kind
from lrflow.errors import ConfigError, Problem, did_you_mean, shortened

Layout = dict[str, Any]
"""What is fitted to the training part, as plain data: `source` and `input`, its `mean` and `std`, and `target`."""

UNREADABLE = "inputs that cannot be read"
_CHUNK = 256
"""Inputs that are checked at once."""


@dataclass(frozen=True, eq=False)
class PreparedStream:
    """Shards as a data module needs them.

    Args:
        samples: all that are used.
        reader: of their inputs.
        targets: class numbers int64 [samples], or numbers float64 [samples].
        rows: of each part, the indices of its samples, in the order of the shards.
        layout: what is fitted to the training part.
        checked: number of inputs that were read to check them.
        skipped: the number of samples and shards that were left out, by the reason.
    """

    samples: Samples
    reader: Reader
    targets: np.ndarray
    rows: Mapping[str, np.ndarray]
    layout: Layout
    checked: int
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What a config has to know before the data is read: see `lrflow.config.schemas.objects.Facts`."""
        target = self.layout["target"]
        classes = len(target["classes"])
        return {
            "examples": len(self.targets),
            "shape": list(Input.of(self.layout["input"]).shape),
            "outputs": classes or 1,
            "loss": "cross_entropy" if classes else "mse",
            "units": None if classes else [target["mean"], target["scale"]],
        }

    @property
    def sizes(self) -> dict[str, int]:
        """How many samples are held out for `val` and `test`."""
        return {part: len(self.rows[part]) for part in PARTS[1:]}


def reader_of(samples: Samples, options: StreamOptions) -> Reader:
    """Return a reader that keeps the row groups which a shuffled pass needs at once."""
    return Reader(samples.source, options.shards_at_once + 2)


def prepare(options: StreamOptions, layout: Layout | None = None) -> PreparedStream:
    """Find, check, split and fit samples; the last results without a layout are kept until the files change.

    Args:
        options: of the shards.
        layout: what an earlier training was fitted to; None: it is fitted to the training part.

    Raises:
        ConfigError: there are no such shards, samples do not fit, or a part has none.
    """
    if layout is not None:
        return _prepare(options, layout)
    paths = [path for files in shards_of_parts(options).values() for path in files]
    stats = [path.stat() for path in paths]
    return _prepared(options, tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)))


@lru_cache(maxsize=2)
def _prepared(options: StreamOptions, files: tuple[tuple[str, int, int], ...]) -> PreparedStream:
    return _prepare(options, None)


def _prepare(options: StreamOptions, layout: Layout | None) -> PreparedStream:
    samples = find_samples(options)
    mistakes = list(samples.mistakes)
    samples, kind, classes = _with_classes(options, samples, layout, mistakes)
    if not len(samples.places):
        raise ConfigError([options.mistaken(mistakes) if mistakes else _nothing_left(options)])
    reader = reader_of(samples, options)
    rows = rows_of_parts(options, samples)
    of = Input.of(layout["input"]) if layout else _input_of(options, samples, reader, rows["train"])
    checked = np.concatenate([_spread(rows[part], options.check) for part in PARTS])
    wrong, moments = _check(samples, reader, checked, of, np.isin(checked, rows["train"]))
    for row, message in sorted(wrong.items()):
        mistakes.append(Misfit(reader.name(samples.places, row), message, UNREADABLE))
    if mistakes and not options.skips:
        raise ConfigError([options.mistaken(mistakes)])
    if wrong:
        bad = np.fromiter(wrong, np.int64)
        rows = {part: np.setdiff1d(of_part, bad) for part, of_part in rows.items()}
    if not len(rows["train"]):
        raise ConfigError([_nothing_left(options)])
    targets = _targets(samples, kind, classes)
    if layout is None:
        if classes:
            hint = "data.val_shards; the last samples of the shards are held out"
            check_trained(targets, rows["train"], classes, "sample", options.val_size, hint)
        own = targets[rows["train"]] if kind == "regression" else np.zeros(1)
        about = {"kind": kind, "classes": classes, "mean": float(own.mean()), "scale": float(own.std()) or 1.0}
        mean, std = moments if options.scaling == "standard" or of.form is not None else ([0.0], [1.0])
        layout = {"source": _plain(samples.source), "input": of.plain(), "mean": mean, "std": std, "target": about}
    # Only what belongs to a part is kept, in the order of the shards.
    kept, rows = kept_rows(rows)
    skipped = counted_reasons(mistakes)
    return PreparedStream(samples.at(kept), reader, targets[kept], rows, layout, len(checked), skipped)


def _with_classes(
    options: StreamOptions, samples: Samples, layout: Layout | None, mistakes: list[Misfit]
) -> tuple[Samples, str, list[str]]:
    """Return the samples whose target fits, the kind of the targets and the names of the classes."""
    target = samples.target
    kind = layout["target"]["kind"] if layout else options.kind or target_kind(target)
    reader = reader_of(samples, options)
    if kind == "regression":
        values, strange = values_of(target, "number")
        for row, text in strange.items():
            message = f"the target {shortened(text)!r} is no number"
            mistakes.append(Misfit(reader.name(samples.places, row), message, "targets that are no numbers"))
        return samples.at(np.flatnonzero(~np.isnan(values))), kind, []
    codes, levels = target.as_texts()
    part = np.array(samples.parts, np.str_)[samples.places.shard]
    counts = np.bincount(codes[part == ""], minlength=len(levels))
    found = [levels[code] for code in np.flatnonzero(counts)]
    classes = list(layout["target"]["classes"]) if layout else in_order(found)
    if layout is None and len(samples.places) and (len(classes) < 2 or (kind == "binary" and len(classes) != 2)):
        expected = "two classes" if kind == "binary" else "at least two classes"
        names = ", ".join(map(shortened, classes[:5])) or "none"
        message = f"expected {expected}, found {len(classes)}: {names}"
        raise ConfigError([Problem("data.target", message, samples.label, "data.kind=regression predicts numbers")])
    alone = np.flatnonzero(counts == 1) if layout is None and len(classes) > 2 else np.empty(0, np.int64)
    if 2 * len(alone) > len(classes):
        message = f"has {len(classes):,} different values in {int(counts.sum()):,} samples: neither numbers nor classes"
        raise ConfigError([Problem("data.target", message, samples.label)])
    lonely = {levels[code] for code in alone.tolist()}  # such as a label that is misspelt
    classes = [name for name in classes if name not in lonely]
    unknown = np.isin(codes, [code for code, level in enumerate(levels) if level not in set(classes)])
    for code in np.unique(codes[unknown]).tolist():
        name, rows = levels[code], np.flatnonzero(codes == code)
        near = did_you_mean(name, classes) or ""
        if name in lonely:
            message = f"the only sample of the class {shortened(name)}"
        else:
            message = f"the class {shortened(name)} is not in the training part"
        message += f", {near}" if near.startswith("did you mean") else ""
        reason = "samples of classes that the training part has once or never"
        mistakes.append(Misfit(reader.name(samples.places, int(rows[0])), message, reason, len(rows)))
    return samples.at(np.flatnonzero(~unknown)), kind, classes


def _targets(samples: Samples, kind: str, classes: list[str]) -> np.ndarray:
    if kind == "regression":
        return values_of(samples.target, "number")[0]
    codes, levels = samples.target.as_texts()
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index.get(level, -1) for level in levels], np.int64)[codes]


def _spread(rows: np.ndarray, check: int | str) -> np.ndarray:
    """Return the samples that are read before the run: evenly spaced, so that some are of each shard."""
    if check == ALL or len(rows) <= int(check):
        return rows
    return rows[np.linspace(0, len(rows) - 1, int(check)).round().astype(np.int64)]


def _input_of(options: StreamOptions, samples: Samples, reader: Reader, rows: np.ndarray) -> Input:
    """Return what an input is, by the first one of the training part that can be read."""
    if samples.source.kind == "image":
        return Input.image(options.form)
    found: list[Misfit] = []
    for row in _spread(rows, options.check).tolist():
        try:
            value = np.asarray(reader.raw(samples.places, row))
            if value.dtype.kind not in "biuf":
                raise ValueError(f"holds {value.dtype}, and no numbers")
        except ValueError as error:
            found.append(Misfit(reader.name(samples.places, row), str(error), UNREADABLE))
            continue
        keeps = options.scaling == "none" and value.dtype.kind in "iu"
        return Input(None, value.shape, "int64" if keeps else "float32")
    raise ConfigError([options.mistaken(found)])


def _check(
    samples: Samples, reader: Reader, rows: np.ndarray, of: Input, trained: np.ndarray
) -> tuple[dict[int, str], tuple[list[float], list[float]]]:
    """Read inputs, and return why some cannot be read, and the moments of those of the training part.

    Returns:
        By sample, what is wrong; mean and standard deviation, of each channel of images and of arrays [channels, ...],
        of each number of a vector, else of all numbers.
    """
    wrong: dict[int, str] = {}
    axes = {1: (0,), 3: (0, 2, 3)}.get(len(of.shape), tuple(range(len(of.shape) + 1)))
    count, total, square = 0, np.zeros(1), np.zeros(1)
    shift: np.ndarray | None = None  # the sums are of differences to the first values, which rounds less
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        found, bad = read_some(reader, samples.places, some, of)
        wrong |= {int(some[place]): message for place, message in bad.items()}
        good = trained[start : start + _CHUNK].copy()
        good[list(bad)] = False
        if not good.any():
            continue
        values = found[good].astype(np.float64) / (255 if of.form is not None else 1)
        shift = values.mean(axes, keepdims=True) if shift is None else shift
        values -= shift
        count += values.size // shift.size
        total = total + values.sum(axes)
        square = square + (values**2).sum(axes)
    if shift is None:
        return wrong, ([0.0], [1.0])
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    mean = np.atleast_1d(mean + shift.reshape(np.shape(mean)))
    std = np.where(std > 1e-12, std, 1.0)
    return wrong, (mean.tolist(), np.atleast_1d(std).tolist())


def _nothing_left(options: StreamOptions) -> Problem:
    return Problem("data.shards", "no sample is left to train on", options.text)


def inputs_in(path: Path, layout: Layout, key: str) -> np.ndarray:
    """Return all inputs in a shard, for predictions; it needs no targets.

    Args:
        path: of the shard.
        layout: what the training was fitted to.
        key: config key that names the shard.

    Raises:
        ConfigError: it cannot be read, has other files or columns, or an input does not fit.
    """
    source = source_of(layout)
    if is_parquet(path) != isinstance(source, Columns):
        kind = PARQUET if isinstance(source, Columns) else TAR
        raise ConfigError([Problem(key, f"expected a {kind} file, as those that the run was trained on", str(path))])
    places, mistakes = find_inputs(path, source)
    reader, of = Reader(source, 1), Input.of(layout["input"])
    found, wrong = read_some(reader, places, np.arange(len(places)), of)
    mistakes += [Misfit(reader.name(places, row), message, UNREADABLE) for row, message in sorted(wrong.items())]
    if mistakes:
        raise ConfigError([misfit_problem(mistakes, key, str(path), True)])
    if not len(found):
        raise ConfigError([Problem(key, "has no samples", str(path))])
    return found


def source_of(layout: Layout) -> File | Columns:
    """Return which file or columns of the samples were the input of a training."""
    own = layout["source"]
    if "names" in own:
        return Columns(tuple(own["names"]), None, own["kind"], dict(own["types"]))
    return File(tuple(own["endings"]), tuple(own["keys"]))


def _plain(source: File | Columns) -> dict[str, Any]:
    if isinstance(source, File):
        return {"endings": list(source.endings), "keys": list(source.keys)}
    types = {name: source.types[name] for name in source.names}
    return {"names": list(source.names), "kind": source.kind, "types": types}

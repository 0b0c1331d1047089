"""The data module of shards: samples in tar files (WebDataset) or Parquet files, read nearly in sequence."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from torch import Tensor
from torch.utils.data import Dataset

from lrflow.data.images.decoding import FILE_TYPES, decode
from lrflow.data.listing import class_table, left_out_lines
from lrflow.data.module import Examples
from lrflow.data.order import SeededBatch, collate_whole
from lrflow.data.prepared import PreparedModule, scaled
from lrflow.data.splits import PARTS
from lrflow.data.stream.files import StreamOptions
from lrflow.data.stream.order import block_order
from lrflow.data.stream.parts import Layout, PreparedStream, inputs_in, prepare
from lrflow.data.stream.shards import PARQUET, TAR
from lrflow.data.stream.values import Input, Places, Reader, read_some
from lrflow.errors import ConfigError, ExampleError, Problem
from lrflow.wording import counted, joined, number, shape_text

log = logging.getLogger("lrflow")

_NAMED = 3
"""Samples that are named when the run ends, of those that it left out."""


class Stream(PreparedModule[PreparedStream]):
    """Samples in shards: tar files as WebDataset writes them, or Parquet files.

    Before the run the shards are indexed: which samples there are and their targets. Inputs are read during the run. An
    input is an image as bytes, uint8 [channels, height, width], or an array of numbers, which `normalise` scales.

    Args:
        shards: paths; `{000..009}`, `*` and folders stand for several. Tar files or Parquet files.
        val_shards: shards for validation; None: `val_size` of the last samples.
        test_shards: shards for the test; None: `test_size` of the last samples.
        input: ending of a file of each sample, `json.KEY`, or a column, or several of numbers; None: the image or the
            array, the column of images or of lists, or all columns of numbers.
        target: ending or `json.KEY`, or a column; None: `cls`; of Parquet files `label`, `target` or the like.
        kind: `regression`, `binary` or `multiclass`; None: classes if the targets are texts or few whole numbers.
        size: height and width in pixels of every image, or one number for both.
        mode: `RGB` or `L`, grey.
        fit: `crop`: scaled until it covers the size, and cut at its centre; `stretch`: scaled to the size.
        scaling: of arrays. `standard`: zero mean and unit variance; `none`: as they are, whole numbers stay whole.
        shuffle: number of samples among which the order is random; 1: only the order of the shards is.
        shards_at_once: number of tar files, or row groups of Parquet files, that are read at once.
        check: number of inputs of each part that are read before the run, evenly spaced; `all`.
        bad_files: what happens to samples and shards that cannot be read, and to others that do not fit: `error`, or
            `skip`, which leaves them out of their batches.
        val_size: samples held out for validation, or a share of them such as `10%`: the last ones of the shards.
        test_size: samples held out for the test, or a share of them: those after the former.
        folds: number of parts of a cross-validation, of the samples that are not for the test; None: none.
        fold: the part that validates, from 0; the others train, and `val_size` does not count.
        batch_size: training examples per batch and device.
        eval_batch_size: examples per batch in validation and test; None: `batch_size`.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader.
        facts: properties of the data that the config states; see `DataModule`.

    Raises:
        ConfigError: invalid options, all in one error; in `setup`, also shards and samples that do not fit.
    """

    file_types = (TAR, PARQUET, *FILE_TYPES)
    collate_fn = staticmethod(collate_whole)

    def __init__(
        self,
        shards: str | Sequence[str],
        val_shards: str | Sequence[str] | None = None,
        test_shards: str | Sequence[str] | None = None,
        input: str | Sequence[str] | None = None,
        target: str | None = None,
        kind: str | None = None,
        size: int | Sequence[int] = 64,
        mode: str = "RGB",
        fit: str = "crop",
        scaling: str = "standard",
        shuffle: int = 10000,
        shards_at_once: int = 8,
        check: int | str = 1000,
        bad_files: str = "error",
        val_size: int | float | str = "10%",
        test_size: int | float | str = 0,
        folds: int | None = None,
        fold: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = 256,
        drop_last: bool = False,
        num_workers: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in StreamOptions.__dataclass_fields__}
        self.options = StreamOptions.of(given)
        super().__init__(batch_size, eval_batch_size, 0, 0, drop_last, num_workers, 0, facts)

    def load(self) -> tuple[Examples, None]:
        """All samples, as `Inputs` that are read batch by batch, and their targets."""
        prepared = self._take(prepare(self.options, self.layout))
        targets = torch.from_numpy(prepared.targets)
        inputs: Any = Inputs(prepared.reader, prepared.samples.places, Input.of(prepared.layout["input"]))
        return Examples(inputs, targets.float() if targets.is_floating_point() else targets), None

    @property
    def input_type(self) -> type:
        """`Inputs`, which are read batch by batch."""
        return Inputs

    def split(self, pool: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """Return the samples of the parts, as shards or sizes define them."""
        assert self._prepared is not None
        train, val, test = (torch.from_numpy(self._prepared.rows[part]) for part in PARTS)
        return train, val, test

    def normalise(self, inputs: Tensor) -> Tensor:
        """Scale inputs [samples, ...] to zero mean and unit variance; float32, or whole numbers as they are."""
        scaling = _scaling(self._layout)
        return inputs if scaling is None else scaled(inputs, *(one.to(inputs.device) for one in scaling))

    def _part(self, examples: Examples) -> Any:
        options = self.options
        order = options.shuffle, options.shards_at_once
        inputs: Any = examples.inputs
        return StreamSet(inputs, examples.targets, _scaling(self._layout), order, options.skips)

    def teardown(self, stage: str) -> None:
        """Report the samples that a training left out."""
        for name, part in (("training", self.train_set), ("validation", self.val_set), ("test", self.test_set)):
            if isinstance(part, StreamSet) and (bad := part.take_bad()):
                names = "; ".join(part.name(row) for row in bad[:_NAMED])
                more = f" and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
                log.warning("left out of %s: %s: %s%s", name, counted(len(bad), "sample"), names, more)

    def read(self, path: Path, key: str) -> Tensor:
        """Return the inputs in a shard, or in the file of an image."""
        of = Input.of(self._layout["input"])
        if path.suffix.lower() in (TAR, PARQUET):
            return torch.from_numpy(inputs_in(path, self._layout, key))
        if of.form is None:
            message = f"expected a {TAR} or {PARQUET} file, since the run was trained on arrays"
            raise ConfigError([Problem(key, message, str(path))])
        try:
            return torch.from_numpy(decode(path, of.form).copy())[None]
        except ValueError as error:
            raise ConfigError([Problem(key, str(error), str(path))]) from None

    def example_inputs(self) -> Tensor | None:
        """Two inputs of zeros; None before `layout` is fitted."""
        if self.layout is None:
            return None
        of = Input.of(self.layout["input"])
        return torch.from_numpy(np.zeros((2, *of.shape), of.dtype))

    def describe(self) -> RenderableType | None:
        """The shards and samples of each part, what was left out, and the moments of the inputs."""
        prepared = self._prepared or prepare(self.options, self.layout)
        layout, samples = prepared.layout, prepared.samples
        of = Input.of(layout["input"])
        parts = ", ".join(f"{part} {len(prepared.rows[part]):,}" for part in PARTS)
        shards = counted(len(np.unique(samples.places.shard)), "shard")
        what = f"{shape_text(of.shape[1:])} {of.form.mode} images" if of.form else f"arrays of {shape_text(of.shape)}"
        lines = [f"{self.options.text}: {shards}, {counted(len(prepared.targets), 'sample')} ({parts})"]
        lines += left_out_lines(prepared.skipped)
        mean, std = layout["mean"], layout["std"]
        moments = ", ".join(f"{number(a)} ± {number(b)}" for a, b in zip(mean[:4], std, strict=False))
        moments += f" and {len(mean) - 4:,} more" if len(mean) > 4 else ""
        scaled = "not scaled" if _scaling(layout) is None else moments + (", from 0 to 1" if of.form else "")
        lines.append(f"input {_name_of(samples.source)}: {what}, {scaled}; {prepared.checked:,} were read")
        classes, target = layout["target"]["classes"], layout["target"]
        if not classes:
            return Group(*lines, f"target {samples.label}: {number(target['mean'])} ± {number(target['scale'])}")
        return Group(*lines, class_table(classes, prepared.targets, prepared.rows, samples.label))

    def describe_inputs(self) -> list[dict[str, Any]]:
        """How the bytes of an image are made from its file, or the shape of an array."""
        return [dict(self._layout["input"])]

    @property
    def pixel_moments(self) -> tuple[Sequence[float], Sequence[float]] | None:  # type: ignore[override]
        """Mean and deviation of each channel, of pixels from 0 to 1; None: the inputs are no images."""
        is_image = self._layout["input"]["kind"] == "image"
        return (self._layout["mean"], self._layout["std"]) if is_image else None


def _name_of(source: Any) -> str:
    return str(getattr(source, "name", None) or joined(list(source.names)))


def _scaling(layout: Layout) -> tuple[Tensor, Tensor] | None:
    """Return scale and shift of the inputs; None: they stay as they are."""
    of = layout["input"]
    if of["kind"] == "array" and layout["mean"] == [0.0] and layout["std"] == [1.0]:
        return None
    dims = (1, 1) if of["kind"] == "image" or len(of["shape"]) == 3 else ()
    mean, std = (torch.tensor(layout[name], dtype=torch.float64).view(-1, *dims) for name in ("mean", "std"))
    unit = 255 if of["kind"] == "image" else 1
    return (1 / (unit * std)).float(), (mean / std).float()


class Inputs(Dataset[Any]):
    """Some of the inputs of samples in shards, which are read when they are fetched.

    Args:
        reader: of the shards.
        places: of the samples.
        of: what an input is.
    """

    def __init__(self, reader: Reader, places: Places, of: Input) -> None:
        self.reader, self.of = reader, of
        self.paths, self.shard, self.unit, self.place = places.paths, places.shard, places.unit, places.place

    @property
    def places(self) -> Places:
        """Where the samples lie."""
        return Places(self.paths, self.shard, self.unit, self.place)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, and the shape of an input."""
        return len(self.shard), *self.of.shape

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, rows: Tensor) -> Inputs:
        return Inputs(self.reader, self.places.at(rows.numpy()), self.of)


class StreamSet(Dataset[Any]):
    """Samples and their targets, read and normalised batch by batch.

    Args:
        inputs: of the samples, in the order of the shards.
        targets: of each.
        scaling: scale and shift of the inputs; None: they stay as they are.
        order: number of samples among which a training shuffles, and number of shards that it reads at once.
        skips: whether samples that cannot be read are left out of their batches, and counted.
    """

    def __init__(
        self,
        inputs: Inputs,
        targets: Tensor,
        scaling: tuple[Tensor, Tensor] | None,
        order: tuple[int, int],
        skips: bool,
    ) -> None:
        self.inputs, self.targets, self._scaling = inputs, targets, scaling
        self.epoch_order = block_order(inputs.unit, order[1], order[0])
        # One byte per sample, in memory that the workers share, says that it could not be read.
        self._bad = torch.zeros(len(targets), dtype=torch.uint8).share_memory_() if skips else None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An input, normalised, and its target."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """A batch: inputs [batch, ...], normalised, and their targets [batch].

        Raises:
            ExampleError: a sample cannot be read, or none of the batch.
        """
        rows = indices.rows if isinstance(indices, SeededBatch) else np.asarray(indices, np.int64)
        found, wrong = read_some(self.inputs.reader, self.inputs.places, rows, self.inputs.of)
        if wrong:
            place, message = next(iter(wrong.items()))
            if self._bad is None:
                hint = "data.bad_files=skip leaves such samples out and counts them"
                raise ExampleError(f"{self.name(int(rows[place]))}: {message}\n    {hint}")
            self._bad[rows[[*wrong]]] = 1
            good = np.setdiff1d(np.arange(len(rows)), np.fromiter(wrong, np.int64))
            if not len(good):
                raise ExampleError(f"no sample of a batch can be read: {self.name(int(rows[place]))}: {message}")
            found, rows = found[good], rows[good]
        inputs = torch.from_numpy(found)
        if self._scaling is not None:
            inputs = scaled(inputs, *self._scaling)
        return [inputs, self.targets[torch.from_numpy(rows)]]

    def name(self, row: int) -> str:
        """The shard of a sample and its name there."""
        return self.inputs.reader.name(self.inputs.places, row)

    def take_bad(self) -> list[int]:
        """Return the samples that could not be read since the last call."""
        if self._bad is None:
            return []
        found: list[int] = self._bad.nonzero().flatten().tolist()
        self._bad.zero_()
        return found

"""The data module of images: files in folders of classes or in a CSV file, decoded once and read as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from torch import Tensor
from torch.utils.data import Dataset

from lrflow.data.images.cache import DecodedImages, decoded_images
from lrflow.data.images.decoding import FILE_TYPES, decode
from lrflow.data.images.files import ImageOptions
from lrflow.data.images.parts import Layout, PreparedImages, form_of, prepare
from lrflow.data.listing import class_table, left_out_lines
from lrflow.data.module import Examples
from lrflow.data.order import SeededBatch, collate_whole
from lrflow.data.prepared import PreparedModule, scaled
from lrflow.data.splits import PARTS, kept_rows
from lrflow.errors import ConfigError, ExampleError, Problem
from lrflow.wording import counted, number, shape_text


class Images(PreparedModule[PreparedImages]):
    """Images in a folder for each class, or in a CSV file of paths and targets.

    An input is the image as bytes, uint8 [channels, height, width], which `normalise` scales by the mean and the
    standard deviation of each channel in the training part.

    Args:
        root: folder with a folder for each class, or with folders `train`, `val` and `test` of these; with `file`, the
            folder to which its paths are relative.
        file: CSV or Parquet file with a line for each image; None: the folders are the classes.
        path: column of the paths; a relative one is relative to `root`, or to the folder of `file`.
        target: column of the classes, or of the numbers to predict.
        kind: `regression`, `binary` or `multiclass`; None: classes if the targets are texts or few whole numbers.
        split: column that says `train`, `val` or `test` for each image; None: `val_size` and `test_size` are held out.
        weight: column of numbers by which `data.sampler=weighted` draws the images to train on.
        size: height and width in pixels of every image, or one number for both.
        mode: `RGB` or `L`, grey.
        fit: `crop`: scaled until it covers the size, and cut at its centre; `stretch`: scaled to the size.
        bad_files: what happens to files that cannot be decoded, and to other files that do not fit: `error` or `skip`.
        cache: folder for the decoded images; `auto`: the user's cache; `none`: they are decoded in every epoch.
        decoders: processes that decode the images before the run; None: one for each CPU.
        val_size: images held out for validation, or a share of them such as `10%`; stratified for classes.
        test_size: images held out for the test, or a share of them.
        folds: number of parts of a cross-validation, stratified, of the images that are not for the test; None: none.
        fold: the part that validates, from 0; the others train, and `val_size` does not count.
        split_seed: seed that selects the images held out.
        batch_size: training examples per batch and device.
        eval_batch_size: examples per batch in validation and test; None: `batch_size`.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader.
        facts: properties of the data that the config states; see `DataModule`.

    Raises:
        ConfigError: invalid options, all in one error; in `setup`, also files that do not fit.
    """

    file_types = FILE_TYPES
    collate_fn = staticmethod(collate_whole)

    def __init__(
        self,
        root: str | None = None,
        file: str | None = None,
        path: str = "path",
        target: str = "target",
        kind: str | None = None,
        split: str | None = None,
        weight: str | None = None,
        size: int | Sequence[int] = 64,
        mode: str = "RGB",
        fit: str = "crop",
        bad_files: str = "error",
        cache: str = "auto",
        decoders: int | None = None,
        val_size: int | float | str = "15%",
        test_size: int | float | str = "15%",
        folds: int | None = None,
        fold: int = 0,
        split_seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = 256,
        drop_last: bool = False,
        num_workers: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in ImageOptions.__dataclass_fields__}
        self.options = ImageOptions.of(given)
        super().__init__(batch_size, eval_batch_size, 0, 0, drop_last, num_workers, split_seed, facts)

    def load(self) -> tuple[Examples, None]:
        """All images, as `Pixels` that are read batch by batch, and their targets."""
        prepared = self._take(prepare(self.options, self.layout))
        if prepared.weights is not None:
            self.train_weights = torch.from_numpy(prepared.weights[prepared.rows["train"]])
        kept, _ = kept_rows(prepared.rows)
        targets = torch.from_numpy(prepared.targets[kept])
        pixels: Any = Pixels(prepared.images, torch.from_numpy(kept))
        return Examples(pixels, targets.float() if targets.is_floating_point() else targets), None

    @property
    def input_type(self) -> type:
        """`Pixels`, which are read batch by batch."""
        return Pixels

    def split(self, pool: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of the parts, as folders, a column or sizes define them."""
        assert self._prepared is not None
        _, rows = kept_rows(self._prepared.rows)
        train, val, test = (torch.from_numpy(rows[part]) for part in PARTS)
        return train, val, test

    def normalise(self, inputs: Tensor) -> Tensor:
        """Scale bytes [images, channels, height, width] to zero mean and unit variance of each channel; float32."""
        scale, shift = (one.to(inputs.device) for one in _scale_and_shift(self._layout))
        return scaled(inputs, scale, shift)

    def _part(self, examples: Examples) -> Any:
        return ImageSet(examples.inputs, examples.targets, *_scale_and_shift(self._layout))  # type: ignore[arg-type]

    def read(self, path: Path, key: str) -> Tensor:
        """Return the image in a file as a batch of one."""
        return self.read_all([path], key)[0]

    def read_all(self, paths: Sequence[Path], key: str) -> list[Tensor]:
        """Return the images in files, each as a batch of one, decoded as those of the training."""
        names = [str(path) for path in paths]
        found = decoded_images(names, form_of(self._layout), paths[0].parent, self.options.cache, self.options.decoders)
        wrong = sorted(found.decoded.wrong.items())
        if wrong:
            raise ConfigError([Problem(key, message, names[row]) for row, message in wrong])
        pixels = Pixels(found, torch.arange(len(names)))
        if found.pixels is None:
            return [pixels.fetch(torch.tensor([row])) for row in range(len(names))]
        return list(torch.from_numpy(found.pixels).split(1))

    def example_inputs(self) -> Tensor | None:
        """Two black images; None before `layout` is fitted."""
        return None if self.layout is None else torch.zeros(2, *form_of(self.layout).shape, dtype=torch.uint8)

    def describe(self) -> RenderableType | None:
        """The images of each class and part, what was left out, and the mean and deviation of the channels."""
        prepared = self._prepared or prepare(self.options, self.layout)
        layout, images = prepared.layout, prepared.images
        parts = ", ".join(f"{part} {len(prepared.rows[part]):,}" for part in PARTS)
        shape = shape_text((images.form.height, images.form.width))
        source = self.options.file or self.options.root
        lines = [f"{source}: {counted(prepared.facts['examples'], 'image')} of {shape} {images.form.mode} ({parts})"]
        lines += left_out_lines(prepared.skipped)
        channels = zip(layout["mean"], layout["std"], strict=True)
        pixels = ", ".join(f"{number(mean)} ± {number(std)}" for mean, std in channels)
        lines.append(f"pixels of the training part, from 0 to 1: {pixels}")
        lines.append(f"decoded into {images.file}" if images.file else f"decoded in every epoch: {images.why}")
        classes, target = layout["target"]["classes"], layout["target"]
        if not classes:
            return Group(*lines, f"target: {number(target['mean'])} ± {number(target['scale'])}")
        return Group(*lines, class_table(classes, prepared.targets, prepared.rows))

    def describe_inputs(self) -> list[dict[str, Any]]:
        """How the bytes of an image are made from its file."""
        return [{"kind": "image", **self._layout["form"]}]

    @property
    def pixel_moments(self) -> tuple[Sequence[float], Sequence[float]]:  # type: ignore[override]
        """Mean and standard deviation of each channel over the training part."""
        return self._layout["mean"], self._layout["std"]


def _scale_and_shift(layout: Layout) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(layout[name], dtype=torch.float64).view(-1, 1, 1) for name in ("mean", "std"))
    return (1 / (255 * std)).float(), (mean / std).float()


class Pixels(Dataset[Any]):
    """Some of the images of a data set, which are read when they are fetched.

    Args:
        images: all of them.
        rows: indices of these images; int64.
    """

    def __init__(self, images: DecodedImages, rows: Tensor) -> None:
        self.rows, self._form = rows, images.form
        self._pixels = None if images.pixels is None else torch.from_numpy(images.pixels)
        self._paths = list(images.paths) if self._pixels is None else []

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, channels, height and width."""
        return len(self.rows), *self._form.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Pixels:
        found = Pixels.__new__(Pixels)
        vars(found).update(vars(self), rows=self.rows[rows])
        return found

    def fetch(self, rows: Tensor) -> Tensor:
        """Return the bytes of these of the images, uint8 [rows, channels, height, width].

        Raises:
            ExampleError: an image cannot be decoded any more.
        """
        if self._pixels is not None:
            return self._pixels.index_select(0, self.rows[rows])
        found = np.empty((len(rows), *self._form.shape), np.uint8)
        for place, row in enumerate(self.rows[rows].tolist()):
            try:
                found[place] = decode(self._paths[row], self._form)
            except ValueError as error:
                raise ExampleError(f"{self._paths[row]} has changed since the run started: it {error}") from error
        return torch.from_numpy(found)


class ImageSet(Dataset[Any]):
    """Images and their targets, fetched and normalised batch by batch.

    Args:
        inputs: the images.
        targets: of each.
        scale: of the bytes, by channel.
        shift: that is subtracted from the scaled bytes.
    """

    def __init__(self, inputs: Pixels, targets: Tensor, scale: Tensor, shift: Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self._scale, self._shift = scale, shift

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An image [channels, height, width], normalised, and its target."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """A batch: images [batch, channels, height, width], normalised, and their targets [batch]."""
        if isinstance(indices, SeededBatch):
            rows = torch.from_numpy(indices.rows)
        else:
            rows = torch.as_tensor(indices, dtype=torch.int64)
        return [scaled(self.inputs.fetch(rows), self._scale, self._shift), self.targets[rows]]

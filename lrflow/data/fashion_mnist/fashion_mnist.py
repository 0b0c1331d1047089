"""The data module FashionMNIST, and a reader for the idx files of the MNIST family."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrflow.data.fashion_mnist import files as fashion_mnist_files
from lrflow.data.module import DataModule, Examples
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import expanded

# Mean and standard deviation of the 60,000 x 784 training pixels, scaled to [0, 1].
MEAN, STD = 0.2860, 0.3530


class FashionMNIST(DataModule):
    """60,000 training and 10,000 test images of clothes: 28 x 28 pixels, 10 classes (Xiao, Rasul and Vollgraf, 2017).

    Args:
        root: a folder with the four idx files, compressed or not; None: the first of `$LRFLOW_DATA/fashion-mnist`,
            `.data`, the folder of Debian's package and the user's cache that has them.
        download: whether missing files are downloaded from their authors into `root`, `$LRFLOW_DATA` or the user's
            cache, and checked.
        batch_size: training examples per batch and device.
        eval_batch_size: examples per batch in validation and test; None: `batch_size`.
        val_size: examples held out of the 60,000 for validation, stratified, or a share of them such as `10%`.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader.
        split_seed: seed that selects the examples held out.
        facts: properties of the data that the config states before it is read; see `DataModule`.
        folds: number of parts of a cross-validation of the 60,000; see `DataModule`.
        fold: the part that validates, from 0.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        download: bool = True,
        batch_size: int = 128,
        eval_batch_size: int | None = 1000,
        val_size: int | float | str = 5000,
        drop_last: bool = True,
        num_workers: int = 0,
        split_seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_size=val_size,
            drop_last=drop_last,
            num_workers=num_workers,
            split_seed=split_seed,
            facts=facts,
            folds=folds,
            fold=fold,
        )
        self.root = None if root is None else expanded(root)
        self.download = download

    pixel_moments = ([MEAN], [STD])

    def prepare_data(self) -> None:
        """Download the files if they are missing; Lightning calls it in one process per node."""
        self.paths()

    def paths(self) -> dict[str, Path]:
        """The four files by name, downloaded if necessary.

        Raises:
            ConfigError: `root` does not have them, and they could not be downloaded.
            LrflowError: no folder has them, and they could not be downloaded; the message lists how to get them.
        """
        found = fashion_mnist_files.locate() if self.root is None else fashion_mnist_files.find(self.root)
        if found:
            return found
        tried = [f"  {folder}" for folder in fashion_mnist_files.search_folders()]
        if self.download:
            try:
                return fashion_mnist_files.download(self.root or fashion_mnist_files.default_folder())
            except (LrflowError, OSError) as error:
                failure = str(error)
        else:
            failure = "data.download=false, so it was not downloaded"
        if self.root is not None:
            message = f"the four files of FashionMNIST are not there; {failure}"
            raise ConfigError([Problem("data.root", message, str(self.root), fashion_mnist_files.ADVICE)])
        raise LrflowError("\n".join(["FashionMNIST was not found in", *tried, failure, fashion_mnist_files.ADVICE]))

    def load(self) -> tuple[Examples, Examples]:
        """The training and the test images: bytes [examples, 1, 28, 28], with their classes, 0 to 9."""
        paths = self.paths()
        return _examples(paths, "train"), _examples(paths, "t10k")

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scale pixels to zero mean and unit variance over the training images."""
        return inputs.float().div_(255).sub_(MEAN).div_(STD)


def _examples(paths: Mapping[str, Path], part: str) -> Examples:
    images_path, labels_path = paths[f"{part}-images-idx3-ubyte"], paths[f"{part}-labels-idx1-ubyte"]
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise LrflowError(
            f"{images_path} and {labels_path} do not belong together: shapes {images.shape} and {labels.shape}"
        )
    return Examples(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())


# By the third byte of a file; numbers are stored big-endian.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """Read the array of an idx file (LeCun, Cortes and Burges, 1998), compressed with gzip or not.

    Args:
        path: the file; the compression is detected from its content, not from its suffix.

    Returns:
        A writable array of the file's shape and type.

    Raises:
        LrflowError: the file cannot be read, is not an idx file, or does not have the length that its header states.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise LrflowError(f"{path} cannot be read: {error or type(error).__name__}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise LrflowError(f"{path} is not an idx file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dtype, start = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        raise LrflowError(f"{path} is truncated: it ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - start
    if found != expected:
        what = "truncated" if found < expected else "too long"
        raise LrflowError(f"{path} is {what}: {found:,} bytes of data, expected {expected:,} from its header")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))

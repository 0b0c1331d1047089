"""Augmentation of batches of training images, as a pure function of the run's seed, the epoch and the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from lrflow.data.order import SeededBatch, fetch_whole
from lrflow.errors import LrflowError


def flip_and_crop(images: Tensor, flip: float, crop: float, generator: torch.Generator) -> Tensor:
    """Return images that are mirrored and shifted at random, each for itself.

    Args:
        images: [images, channels, height, width].
        flip: probability that left and right are exchanged.
        crop: the largest shift up, down, left and right, as a share of height and width. What comes into view is 0,
            the mean of normalised images: as images are padded and cut by He et al. (2016).
        generator: draws, on the CPU.
    """
    count, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(count, generator=generator) < flip
        images = torch.where(mirrored.view(-1, 1, 1, 1).to(images.device), images.flip(3), images)
    if crop:
        most = [round(crop * size) for size in (height, width)]
        starts = [torch.randint(2 * one + 1, (count, 1), generator=generator) for one in most]
        rows, columns = (start + torch.arange(size) for start, size in zip(starts, (height, width), strict=True))
        padded = pad(images, (most[1], most[1], most[0], most[0]))
        which = torch.arange(count).view(-1, 1, 1)
        images = padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images.contiguous()


class Augmented(Dataset[Any]):
    """A data set whose batches are augmented, if a loader in lrflow's order fetches them; single examples are not.

    Args:
        dataset: whose examples or batches begin with the inputs.
        collate: makes a batch of examples.
        flip: see `flip_and_crop`.
        crop: see `flip_and_crop`.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[Any], Any], flip: float, crop: float) -> None:
        whole = fetch_whole(dataset) if collate is torch.utils.data.default_collate else None
        self.dataset = whole or dataset
        self._collate = None if whole else collate
        self._flip, self._crop = flip, crop

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """An example as it is."""
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """A batch, of which each image is augmented.

        Raises:
            LrflowError: it does not begin with images.
        """
        fetch = getattr(self.dataset, "__getitems__", None)
        batch = fetch(indices) if fetch else [self.dataset[index] for index in indices]
        batch = self._collate(batch) if self._collate else batch
        if not isinstance(indices, SeededBatch):
            return batch
        images = batch[0] if isinstance(batch, list | tuple) and batch else None
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise LrflowError("data.augment needs batches of (images [batch, channels, height, width], targets)")
        # Another seed than that of the worker's own generators, from which a data set of the user may draw.
        generator = torch.Generator().manual_seed(indices.seed + 2**32)
        return [flip_and_crop(images, self._flip, self._crop, generator), *batch[1:]]

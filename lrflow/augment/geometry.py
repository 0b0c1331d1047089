"""Augmentations that move or remove parts of images: mirroring, shifting, erasing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lrflow.augment.base import Augmentation


class FlipCrop(Augmentation):
    """Mirrors and shifts each image at random, as images are padded and cut by He et al. (2016).

    Args:
        flip: probability that left and right are exchanged.
        crop: the largest shift up, down, left and right, as a share of height and width. What comes into view is 0,
            the mean of normalised images.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, flip: float = 0.5, crop: float = 0.125) -> None:
        self._check("flip_crop", flip=flip, crop=crop)
        self.flip, self.crop = flip, crop

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return images [batch, channels, height, width] that are mirrored and shifted, and the same targets."""
        images, (count, _, height, width) = inputs, inputs.shape
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < self.flip
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.crop:
            most = [round(self.crop * size) for size in (height, width)]
            down, right = (torch.randint(2 * one + 1, (count, 1), generator=generator).squeeze(1) for one in most)
            padded = pad(images, (most[1], most[1], most[0], most[0]))
            places = zip(padded, down.tolist(), right.tolist(), strict=True)
            images = torch.stack([image[:, y : y + height, x : x + width] for image, y, x in places])
        return images, targets


class Erasing(Augmentation):
    """Erases a rectangle of an image (Zhong et al., 2020, arXiv 1708.04896).

    Args:
        prob: probability that an image loses a rectangle.
        area: smallest and largest share of the image.
        aspect: smallest and largest height of the rectangle over its width; drawn uniformly in the logarithm. What
            would lie outside of the image is cut off.
        fill: `mean`: 0, the mean of normalised images; `noise`: independent normal numbers.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        prob: float = 0.5,
        area: Sequence[float] = (0.02, 0.33),
        aspect: Sequence[float] = (0.3, 3.3),
        fill: str = "mean",
    ) -> None:
        self._check("erasing", prob=prob, area=area, aspect=aspect, fill=fill)
        self.prob, self.area, self.aspect, self.fill = prob, tuple(area), tuple(aspect), fill

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return images [batch, channels, height, width] of which some have lost a rectangle, and the same targets."""
        count, _, *sizes = inputs.shape
        erased, area, aspect, *places = torch.rand(5, count, generator=generator)
        share = self.area[0] + (self.area[1] - self.area[0]) * area
        ratio = torch.exp(math.log(self.aspect[0]) + math.log(self.aspect[1] / self.aspect[0]) * aspect)
        pixels = share * math.prod(sizes)
        lengths = [(pixels * ratio).sqrt().round(), (pixels / ratio).sqrt().round()]
        inside = []
        for size, length, place in zip(sizes, lengths, places, strict=True):
            length = length.clamp(1, size)
            start = (place * (size - length + 1)).floor()[:, None]
            at = torch.arange(size)
            inside.append((at >= start) & (at < start + length[:, None]))
        mask = inside[0][:, :, None] & inside[1][:, None, :] & (erased < self.prob)[:, None, None]
        noise = torch.randn(inputs.shape, generator=generator) if self.fill == "noise" else torch.zeros(())
        return torch.where(mask[:, None], noise.to(inputs.dtype), inputs), targets

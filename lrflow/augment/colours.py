"""Changes of the colours of images, as Pillow's `ImageEnhance` and `ImageOps` make them, and random ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from lrflow.augment.base import Augmentation


def grey(images: Tensor) -> Tensor:
    """Return the luma [images, 1, height, width] of images (ITU-R 601-2); of other than three channels, their mean."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def _away_from(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Return images whose distance from others is multiplied by a factor for each."""
    return (base + (images - base) * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return images [images, channels, height, width] of pixels from 0 to 1, each brighter by a factor [images]."""
    return _away_from(torch.zeros(()), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return images with another distance from their mean grey."""
    return _away_from(grey(images).mean((2, 3), keepdim=True), images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return images with another distance from grey; grey ones stay."""
    return _away_from(grey(images), images, factor) if images.shape[1] == 3 else images


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Return images with another distance from smooth ones; the outermost pixels stay."""
    channels, height, width = images.shape[1:]
    if min(height, width) < 3:
        return images
    kernel = images.new_ones(3, 3)
    kernel[1, 1] = 5
    smooth = images.clone()
    weights = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    smooth[:, :, 1:-1, 1:-1] = conv2d(images, weights, groups=channels)
    return _away_from(smooth, images, factor)


def posterize(images: Tensor, bits: int) -> Tensor:
    """Return images whose pixels keep only the highest of their eight bits."""
    return (_bytes(images) & (256 - 2 ** (8 - bits))).float() / 255


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Return images with inverted pixels, where these are at least a threshold from 0 to 1."""
    return torch.where(images < threshold, images, 1 - images)


def autocontrast(images: Tensor) -> Tensor:
    """Return images of which each channel reaches from 0 to 1; a constant one stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-12), images)


def equalize(images: Tensor) -> Tensor:
    """Return images of which each channel has its values equally often, as far as 256 steps allow."""
    count, channels, height, width = images.shape
    values = _bytes(images).flatten(2)
    histogram = torch.zeros(count, channels, 256, dtype=torch.long)
    histogram.scatter_add_(2, values, torch.ones_like(values))
    last = histogram.gather(2, values.amax(2, keepdim=True)).squeeze(2)
    step = ((height * width - last) // 255)[..., None]
    before = histogram.cumsum(2) - histogram
    table = ((before + step // 2) // step.clamp_min(1)).clamp_(0, 255)
    found = torch.where(step > 0, table.gather(2, values), values)
    return found.view_as(images).float() / 255


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round_().long()


class ColorJitter(Augmentation):
    """Changes brightness, contrast and saturation of each image by random factors, in a random order per batch.

    Args:
        brightness: factors are drawn from 1 - brightness, at least 0, to 1 + brightness.
        contrast: the same for the distance from the mean grey.
        saturation: the same for the distance from grey; images of one channel have none.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4) -> None:
        self._check("color_jitter", brightness=brightness, contrast=contrast, saturation=saturation)
        self.most = (brightness, contrast, saturation)

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return images [batch, channels, height, width] of pixels from 0 to 1, and the same targets."""
        drawn = torch.rand(3, len(inputs), generator=generator)
        for number in torch.randperm(3, generator=generator).tolist():
            most, change = self.most[number], (brightness, contrast, saturation)[number]
            if most:
                low = max(0.0, 1 - most)
                inputs = change(inputs, low + (1 + most - low) * drawn[number])
        return inputs, targets

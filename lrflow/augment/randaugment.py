"""RandAugment: some of fourteen changes of each image, all of one magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lrflow.augment import colours
from lrflow.augment.base import Augmentation

GREY = 0.5
"""The pixels that come into view."""


def _moved(images: Tensor, rows: Callable[[Tensor, float], list[Tensor | float]], amount: Tensor) -> Tensor:
    """Return images of which each is mapped by an affine function.

    Args:
        images: [images, channels, height, width].
        rows: returns the six numbers by which coordinates from -1 to 1, right and down, are mapped to those in the
            image as it was, for an amount and the height over the width.
        amount: of each image.
    """
    ratio = images.shape[2] / images.shape[3]
    numbers = [torch.as_tensor(one).expand(len(images)) for one in rows(amount, ratio)]
    grid = affine_grid(torch.stack(numbers, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images - GREY, grid, padding_mode="zeros", align_corners=False) + GREY


def shear_x(images: Tensor, amount: Tensor) -> Tensor:
    """Return images whose rows are shifted by `amount` pixels more from row to row."""
    return _moved(images, lambda by, ratio: [1.0, by * ratio, 0.0, 0.0, 1.0, 0.0], amount)


def shear_y(images: Tensor, amount: Tensor) -> Tensor:
    """Return images whose columns are shifted by `amount` pixels more from column to column."""
    return _moved(images, lambda by, ratio: [1.0, 0.0, 0.0, by / ratio, 1.0, 0.0], amount)


def translate_x(images: Tensor, amount: Tensor) -> Tensor:
    """Return images that are shifted to the right by a share of their width."""
    return _moved(images, lambda by, ratio: [1.0, 0.0, -2 * by, 0.0, 1.0, 0.0], amount)


def translate_y(images: Tensor, amount: Tensor) -> Tensor:
    """Return images that are shifted down by a share of their height."""
    return _moved(images, lambda by, ratio: [1.0, 0.0, 0.0, 0.0, 1.0, -2 * by], amount)


def rotate(images: Tensor, amount: Tensor) -> Tensor:
    """Return images that are turned counterclockwise by radians."""
    return _moved(
        images,
        lambda by, ratio: [by.cos(), -by.sin() * ratio, 0.0, by.sin() / ratio, by.cos(), 0.0],
        amount,
    )


_SIGNED: tuple[tuple[Callable[[Tensor, Tensor], Tensor], float, float], ...] = (
    (shear_x, 0.0, 0.3),
    (shear_y, 0.0, 0.3),
    (translate_x, 0.0, 150 / 331),
    (translate_y, 0.0, 150 / 331),
    (rotate, 0.0, math.radians(30)),
    (colours.brightness, 1.0, 0.9),
    (colours.contrast, 1.0, 0.9),
    (colours.saturation, 1.0, 0.9),
    (colours.sharpness, 1.0, 0.9),
)
"""Changes by an amount up or down, with the amount that changes nothing, and the largest distance from it."""


class RandAugment(Augmentation):
    """Applies some of fourteen changes to each image, drawn for itself (Cubuk et al., 2020, arXiv 1909.13719).

    The changes are shears, shifts, a rotation, brightness, contrast, saturation, sharpness, posterize, solarize,
    autocontrast, equalize and none, with torchvision's ranges. What comes into view is grey.

    Args:
        num_ops: changes per image.
        magnitude: their strength, from 0 to 30.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, num_ops: int = 2, magnitude: float = 9) -> None:
        self._check("randaugment", num_ops=num_ops, magnitude=magnitude)
        self.num_ops, self.magnitude = num_ops, magnitude

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return images [batch, channels, height, width] of pixels from 0 to 1, and the same targets."""
        strength = self.magnitude / 30
        fixed: tuple[Callable[[Tensor], Tensor], ...] = (
            lambda images: colours.posterize(images, 8 - round(4 * strength)),
            lambda images: colours.solarize(images, 1 - strength),
            colours.autocontrast,
            colours.equalize,
        )
        count, images = len(inputs), inputs.clone()
        for _ in range(self.num_ops):
            chosen = torch.randint(len(_SIGNED) + len(fixed) + 1, (count,), generator=generator)  # the last is none
            signs = torch.randint(2, (count,), generator=generator) * 2.0 - 1
            for number in range(len(_SIGNED) + len(fixed)):
                rows = (chosen == number).nonzero().squeeze(1)
                if not len(rows):
                    continue
                if number < len(_SIGNED):
                    change, neutral, most = _SIGNED[number]
                    images[rows] = change(images[rows], neutral + signs[rows] * (most * strength))
                else:
                    images[rows] = fixed[number - len(_SIGNED)](images[rows])
        return images, targets

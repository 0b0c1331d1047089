"""Changes of colours against Pillow's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from lrflow.augment import ColorJitter, colours

FACTOR = torch.tensor([0.4, 1.7])


def pictures() -> torch.Tensor:
    """Two images of 24 x 31 bytes with structure: low contrast, and many equal values."""
    places = np.random.RandomState(0).normal(size=(2, 24, 31, 3)).cumsum(1).cumsum(2)
    places = (places - places.min((1, 2), keepdims=True)) / np.ptp(places, axis=(1, 2), keepdims=True)
    places[0] = 0.2 + 0.5 * places[0]
    return torch.from_numpy((places * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)


def enhanced(kind: type) -> Callable[[Image.Image, int], Image.Image]:
    return lambda image, number: kind(image).enhance(FACTOR[number].item())


@pytest.mark.parametrize(
    ("ours", "theirs", "exact"),
    [
        (lambda x: colours.brightness(x, FACTOR), enhanced(ImageEnhance.Brightness), False),
        (lambda x: colours.contrast(x, FACTOR), enhanced(ImageEnhance.Contrast), False),
        (lambda x: colours.saturation(x, FACTOR), enhanced(ImageEnhance.Color), False),
        (lambda x: colours.sharpness(x, FACTOR), enhanced(ImageEnhance.Sharpness), False),
        (lambda x: colours.posterize(x, 3), lambda image, _: ImageOps.posterize(image, 3), True),
        (lambda x: colours.solarize(x, 100 / 255), lambda image, _: ImageOps.solarize(image, 100), True),
        (colours.autocontrast, lambda image, _: ImageOps.autocontrast(image), False),
        (colours.equalize, lambda image, _: ImageOps.equalize(image), True),
    ],
)
def test_a_change_is_that_of_pillow(ours: Callable[..., torch.Tensor], theirs: Callable[..., Image.Image], exact: bool):
    images = pictures()
    found = (ours(images.float() / 255) * 255).round()
    expected = [
        np.asarray(theirs(Image.fromarray(image.permute(1, 2, 0).numpy()), number))
        for number, image in enumerate(images)
    ]
    distance = (found.permute(0, 2, 3, 1).numpy() - np.stack(expected)).astype(float)
    assert np.abs(distance).max() <= (0 if exact else 2)  # Pillow rounds what it mixes with
    assert not found.equal(images.float())


def test_a_constant_image_stays() -> None:
    images = torch.full((2, 3, 5, 5), 0.4)
    for change in (colours.autocontrast, colours.equalize):
        assert torch.allclose(change(images), images, atol=1 / 510)


def test_jitter_draws_a_factor_for_each_image() -> None:
    images = torch.full((1000, 1, 4, 4), 0.5)
    found, _ = ColorJitter(0.4, 0, 3)(images, None, torch.Generator().manual_seed(0))
    factors = found[:, 0, 0, 0] / 0.5
    assert (found == found[:, :, :1, :1]).all()
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    both = [
        ColorJitter(0.9, 0.9)(torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(9)), None,
                              torch.Generator().manual_seed(seed))[0]
        for seed in (0, 0, 1)
    ]  # fmt: skip
    assert both[0].equal(both[1])
    assert not both[0].equal(both[2])

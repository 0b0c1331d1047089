"""RandAugment: its movements against Pillow's and shifts, and how changes are drawn."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

from lrflow.augment import RandAugment, randaugment


def blob() -> torch.Tensor:
    """A smooth image [1, 1, 48, 64] that is grey at its edges."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 64), indexing="ij")
    return (0.5 + 0.45 * torch.exp(-12 * ((x - 0.3) ** 2 + (y + 0.2) ** 2)))[None, None]


def by_pillow(image: torch.Tensor, matrix: list[float]) -> torch.Tensor:
    """An image mapped by a matrix of pixels around its centre, from the new image to the old one."""
    (height, width), (a, b, c, d) = image.shape[-2:], matrix
    # The centre of the pixel 0 is at 0.5 for Pillow, too.
    x, y = width / 2, height / 2
    coefficients = (a, b, x - a * x - b * y, c, d, y - c * x - d * y)
    picture = Image.fromarray(image[0, 0].numpy() - 0.5)
    moved = picture.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(moved) + 0.5)


def test_movements_are_those_of_pillow() -> None:
    image, angle = blob(), math.radians(25)
    cases = {
        "rotate": (angle, [math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)]),
        "shear_x": (0.25, [1, 0.25, 0, 1]),
        "shear_y": (-0.25, [1, 0, -0.25, 1]),
    }
    for name, (amount, matrix) in cases.items():
        found = getattr(randaugment, name)(image, torch.tensor([amount]))
        assert (found[0, 0] - by_pillow(image, matrix)).abs().max() < 0.02, name
        assert (found - image).abs().max() > 0.05, name
    turned = Image.fromarray(image[0, 0].numpy()).rotate(25, Image.Resampling.BILINEAR, fillcolor=0.5)
    assert (randaugment.rotate(image, torch.tensor([angle]))[0, 0] - np.asarray(turned)).abs().max() < 0.02


def test_shifts_move_by_a_share_and_show_grey() -> None:
    images = torch.rand(2, 3, 8, 16)
    right = randaugment.translate_x(images, torch.tensor([0.25, -0.25]))
    assert torch.allclose(right[0, :, :, 4:], images[0, :, :, :-4], atol=1e-5)
    assert torch.allclose(right[1, :, :, :-4], images[1, :, :, 4:], atol=1e-5)
    assert torch.allclose(right[0, :, :, :4], torch.tensor(0.5))
    down = randaugment.translate_y(images, torch.tensor([0.5, 0.0]))
    assert torch.allclose(down[0, :, 4:], images[0, :, :-4], atol=1e-5)
    assert torch.allclose(down[1], images[1], atol=1e-5)


def test_images_are_changed_for_themselves_and_stay_pixels() -> None:
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)).repeat(300, 1, 1, 1)
    found, targets = RandAugment(1, 15)(images, "t", torch.Generator().manual_seed(0))
    assert targets == "t"
    assert found.min() >= 0
    assert found.max() <= 1
    kinds = torch.unique(found.flatten(1), dim=0)
    assert len(kinds) == 9 * 2 + 4 + 1  # up and down, four without an amount, and none
    unchanged = (found == images).flatten(1).all(1).sum()
    assert 5 < unchanged < 45
    assert RandAugment(0)(images, None, torch.Generator())[0].equal(images)
    again = RandAugment(3, 20)(images, None, torch.Generator().manual_seed(5))[0]
    assert again.equal(RandAugment(3, 20)(images, None, torch.Generator().manual_seed(5))[0])

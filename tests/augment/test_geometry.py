"""Mirrored, shifted and erased images, against all that they may be."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from lrflow.augment import Erasing, FlipCrop
from lrflow.errors import ConfigError


def test_every_image_is_one_of_those_that_are_mirrored_and_shifted() -> None:
    images = torch.rand(200, 2, 4, 8) + 1
    found, targets = FlipCrop(0.5, 0.25)(images, "targets", torch.Generator().manual_seed(0))
    assert targets == "targets"
    kinds = set()
    for image, new in zip(images, found, strict=True):
        possible = {}
        for flipped in (False, True):
            wide = torch.nn.functional.pad(image.flip(2) if flipped else image, (2, 2, 1, 1))
            possible |= {(flipped, y, x): wide[:, y : y + 4, x : x + 8] for y in range(3) for x in range(5)}
        (kind,) = (kind for kind, one in possible.items() if one.equal(new))
        kinds.add(kind)
    assert len(kinds) == 30
    assert FlipCrop(0, 0)(images, None, torch.Generator())[0].equal(images)
    assert FlipCrop(1, 0)(images, None, torch.Generator())[0].equal(images.flip(3))


def test_a_rectangle_of_the_area_and_form_is_erased() -> None:
    images = torch.rand(600, 2, 40, 60) + 1
    found, _ = Erasing(0.5, area=(0.1, 0.2), aspect=(0.5, 2))(images, None, torch.Generator().manual_seed(1))
    gone = found != images
    assert gone[:, 0].equal(gone[:, 1])
    assert not found[gone].any()
    areas = []
    for one in gone[:, 0]:
        rows, columns = one.any(1), one.any(0)
        assert one.equal(rows[:, None] & columns)
        if one.any():
            areas.append(one.float().mean().item())
            height, width = (axis.nonzero().squeeze(1) for axis in (rows, columns))
            assert height.diff().eq(1).all()
            assert width.diff().eq(1).all()
            assert 0.4 < len(height) / len(width) < 2.3
    assert 250 < len(areas) < 350
    assert 0.09 < min(areas) < 0.11
    assert 0.19 < max(areas) < 0.21
    assert stats.kstest(areas, stats.uniform(0.1, 0.1).cdf).pvalue > 0.001
    noise, _ = Erasing(1, fill="noise")(torch.zeros(200, 1, 20, 20), None, torch.Generator().manual_seed(0))
    drawn = noise[noise != 0]
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("wrong", [{"area": [0.3, 0.1]}, {"aspect": [0, 1]}, {"fill": "black"}, {"prob": 2}])
def test_arguments_out_of_range_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"augment.erasing.{next(iter(wrong))}"):
        Erasing(**wrong)  # type: ignore[arg-type]

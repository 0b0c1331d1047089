"""What each augmentation needs of a batch, and the ranges of its arguments; without torch, for checks of configs."""

from __future__ import annotations

from typing import NamedTuple

from lrflow.limits import Limit, is_number, number, one_of, whole


class Traits(NamedTuple):
    """What an augmentation needs of a batch.

    Args:
        images: whether inputs are images [batch, channels, height, width].
        pixels: whether it gets pixels from 0 to 1, and not normalised ones.
        mixes: whether it mixes targets, which are probabilities of the classes then.
        numbers: whether targets that it mixes may be numbers to predict.
    """

    images: bool = False
    pixels: bool = False
    mixes: bool = False
    numbers: bool = False


TRAITS = {
    "FlipCrop": Traits(images=True),
    "Erasing": Traits(images=True),
    "ColorJitter": Traits(images=True, pixels=True),
    "RandAugment": Traits(images=True, pixels=True),
    "MixUp": Traits(mixes=True, numbers=True),
    "CutMix": Traits(images=True, mixes=True),
    "MixUpOrCutMix": Traits(images=True, mixes=True),
}
"""Traits of lrflow's augmentations, by the names of their classes."""

_RANGE = Limit(
    "two numbers above 0, of which the second is not below the first",
    lambda value: (
        isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value)) and 0 < value[0] <= value[1]
    ),
)

LIMITS = {
    "flip": number(0, 1),
    "crop": number(0, 1),
    "prob": number(0, 1),
    "share": number(0, 1),
    "alpha": number(0, above=True),
    "cutmix_alpha": number(0, above=True),
    "brightness": number(0),
    "contrast": number(0),
    "saturation": number(0),
    "num_ops": whole(0, 14),
    "magnitude": number(0, 30),
    "area": _RANGE,
    "aspect": _RANGE,
    "fill": one_of("mean", "noise"),
}
"""Ranges of the arguments of lrflow's augmentations."""


def traits_named(target: str) -> Traits | None:
    """Return the traits of the augmentation with this dotted name; None: it is not lrflow's."""
    room, _, name = target.rpartition(".")
    return TRAITS.get(name) if room == "lrflow.augment" else None

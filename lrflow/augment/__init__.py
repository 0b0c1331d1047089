"""Augmentation of training batches, a pure function of the run's seed, the epoch and the batch."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.augment.base import Augmentation
    from lrflow.augment.colours import ColorJitter
    from lrflow.augment.geometry import Erasing, FlipCrop
    from lrflow.augment.mixing import CutMix, MixUp, MixUpOrCutMix
    from lrflow.augment.randaugment import RandAugment

__all__ = [
    "Augmentation",
    "ColorJitter",
    "CutMix",
    "Erasing",
    "FlipCrop",
    "MixUp",
    "MixUpOrCutMix",
    "RandAugment",
]

__getattr__ = lazily(
    __name__,
    {
        "Augmentation": "base",
        "ColorJitter": "colours",
        "CutMix": "mixing",
        "Erasing": "geometry",
        "FlipCrop": "geometry",
        "MixUp": "mixing",
        "MixUpOrCutMix": "mixing",
        "RandAugment": "randaugment",
    },
)

"""Augmentations that mix the examples of a batch, with their targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrflow.augment.base import Augmentation


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha), for which torch takes no generator; NumPy's streams never change."""
    seed = int(torch.randint(2**32, (), generator=generator))
    return float(np.random.RandomState(seed).beta(alpha, alpha))


def _happens(prob: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < prob


class MixUp(Augmentation):
    """Replaces each example by a mean of itself and another of the batch (Zhang et al., 2018, arXiv 1710.09412).

    The inputs and the targets are `w x + (1 - w) x'`, with one weight per batch and another order of its examples.

    Args:
        alpha: the weight is drawn from Beta(alpha, alpha): small values leave most examples almost as they are.
        prob: probability that a batch is mixed.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, alpha: float = 0.2, prob: float = 1.0) -> None:
        self._check("mixup", alpha=alpha, prob=prob)
        self.alpha, self.prob = alpha, prob

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return the mixed inputs [batch, ...] and targets [batch, classes] or [batch, ...], both of floats."""
        if not _happens(self.prob, generator):
            return inputs, targets
        weight, other = _beta(self.alpha, generator), torch.randperm(len(inputs), generator=generator)
        return inputs.lerp(inputs[other], 1 - weight), targets.lerp(targets[other], 1 - weight)


class CutMix(Augmentation):
    """Replaces a rectangle of each image by that of another of the batch (Yun et al., 2019, arXiv 1905.04899).

    The targets are mixed by the areas. The rectangle, one per batch, has its centre anywhere in the image, and what
    would lie outside is cut off.

    Args:
        alpha: the share that stays is drawn from Beta(alpha, alpha), before the rectangle is cut off.
        prob: probability that a batch is mixed.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, alpha: float = 1.0, prob: float = 1.0) -> None:
        self._check("cutmix", alpha=alpha, prob=prob)
        self.alpha, self.prob = alpha, prob

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return the mixed images [batch, channels, height, width] and targets [batch, classes], floats."""
        if not _happens(self.prob, generator):
            return inputs, targets
        weight, other = _beta(self.alpha, generator), torch.randperm(len(inputs), generator=generator)
        height, width = inputs.shape[2:]
        limits = []
        for size in (height, width):
            half = int(size * (1 - weight) ** 0.5) // 2
            centre = int(torch.randint(size, (), generator=generator))
            limits.append(slice(max(centre - half, 0), min(centre + half, size)))
        images, place = inputs.clone(), (slice(None), slice(None), *limits)
        images[place] = inputs[place][other]
        taken = images[0, 0][tuple(limits)].numel() / (height * width)
        return images, targets.lerp(targets[other], taken)


class MixUpOrCutMix(Augmentation):
    """Mixes each batch by one of mixup and cutmix, as timm does where both are given.

    Args:
        alpha: that of `MixUp`.
        cutmix_alpha: that of `CutMix`.
        share: probability of cutmix.
        prob: probability that a batch is mixed.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, alpha: float = 0.8, cutmix_alpha: float = 1.0, share: float = 0.5, prob: float = 1.0) -> None:
        self._check("mixup_cutmix", alpha=alpha, cutmix_alpha=cutmix_alpha, share=share, prob=prob)
        self.share = share
        self._ways = MixUp(alpha, prob), CutMix(cutmix_alpha, prob)

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return the mixed images [batch, channels, height, width] and targets [batch, classes], floats."""
        return self._ways[_happens(self.share, generator)](inputs, targets, generator)

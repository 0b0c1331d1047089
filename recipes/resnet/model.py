"""A residual network that augments pictures on the device and trains on smoothed labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lrflow.errors import ConfigError, Problem
from lrflow.models import ResNet
from lrflow.training import Supervised


class AugmentedResNet(Supervised):
    """lrflow's ResNet, trained on randomly flipped and shifted pictures.

    Args:
        shape: [channels, height, width].
        outputs: number of classes.
        width: channels of the first stage.
        blocks: residual blocks per stage.
        flip: mirror half of the pictures.
        shift: maximum shift of a picture in pixels, in each direction.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., 2016), in the
            training loss only.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2),
        flip: bool = True,
        shift: int = 2,
        label_smoothing: float = 0.1,
    ) -> None:
        problems = []
        if not 0 <= shift < min(shape[1:]):
            problems.append(Problem("model.shift", "expected pixels, from 0 to below the picture's size", shift))
        if not 0 <= label_smoothing < 1:
            problems.append(Problem("model.label_smoothing", "expected a share, from 0 to below 1", label_smoothing))
        if problems:
            raise ConfigError(problems)
        super().__init__(ResNet(shape, outputs, width, blocks), "cross_entropy")
        self.flip = flip
        self.shift = shift
        self.label_smoothing = label_smoothing

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a randomly augmented batch."""
        images, target = batch
        if self.flip:
            images = flipped(images)
        if self.shift:
            images = shifted(images, self.shift)
        return functional.cross_entropy(self.model(images), target, label_smoothing=self.label_smoothing)


def flipped(images: Tensor) -> Tensor:
    """Mirror each picture [batch, channels, height, width] with probability 1/2, by the device's global generator."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def shifted(images: Tensor, most: int) -> Tensor:
    """Shift each picture by up to `most` pixels per direction; edge pixels are repeated to fill the gap.

    Shifts are whole pixels, uniformly distributed, drawn from the global generator of the device without synchronising
    it.

    Args:
        images: [batch, channels, height, width].
        most: maximum shift in pixels.
    """
    batch, channels, height, width = images.shape
    padded = functional.pad(images, [most] * 4, mode="replicate")
    down, right = torch.randint(0, 2 * most + 1, (2, batch, 1), device=images.device)
    rows = (down + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (right + torch.arange(width, device=images.device))[:, None, None, :]
    examples = torch.arange(batch, device=images.device)[:, None, None, None]
    planes = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[examples, planes, rows, columns]

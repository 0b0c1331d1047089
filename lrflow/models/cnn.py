"""A small convolutional network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from lrflow.models.common import check, initialise


class CNN(nn.Module):
    """Convolutional network: `stage1`, `stage2`, ... of 3x3 convolution, BatchNorm, ReLU and pooling, and a `head`.

    Each stage halves the picture (rounding up); the head is linear over the mean of what is left of it, so
    that pictures of any size do.

    Args:
        shape: [channels, height, width].
        outputs: classes, or values to predict.
        widths: channels of the stages, at least one.
        dropout: probability, before the head.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(
        self, shape: Sequence[int], outputs: int, widths: Sequence[int] = (16, 32, 64), dropout: float = 0.0
    ) -> None:
        super().__init__()
        check(shape, outputs, widths, dropout, image=True)
        self.stages = []
        channels = shape[0]
        for index, width in enumerate(widths, start=1):
            self.add_module(f"stage{index}", _stage(channels, width))
            self.stages.append(f"stage{index}")
            channels = width
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, outputs)
        initialise(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of pictures [batch, channels, height, width]."""
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        scores: Tensor = self.head(self.dropout(x.mean((2, 3))))
        return scores


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),  # the norm's bias takes its place
            norm=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2, ceil_mode=True),
        )
    )

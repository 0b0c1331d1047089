"""A small residual network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own name for it

from lrflow.models.common import check, initialise


class ResNet(nn.Module):
    """Pre-activation ResNet (He et al., 2016): `stem`, `stage1`, `stage2`, ... of residual blocks, `norm`, `head`.

    Each stage after the first halves the picture and doubles the channels.

    Args:
        shape: [channels, height, width], from 8 x 8.
        outputs: classes, or values to predict.
        width: channels of the first stage.
        blocks: residual blocks of each stage.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(self, shape: Sequence[int], outputs: int, width: int = 16, blocks: Sequence[int] = (2, 2, 2)) -> None:
        super().__init__()
        check(shape, outputs, [width], image=True)
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.stages = []
        channels = width
        for index, count in enumerate(blocks, start=1):
            wider = width * 2 ** (index - 1)
            stride = 1 if index == 1 else 2
            stage = [Block(channels, wider, stride), *(Block(wider, wider) for _ in range(count - 1))]
            self.add_module(f"stage{index}", nn.Sequential(*stage))
            self.stages.append(f"stage{index}")
            channels = wider
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, outputs)
        initialise(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of pictures [batch, channels, height, width]."""
        x = self.stem(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        scores: Tensor = self.head(F.relu(self.norm(x)).mean((2, 3)))
        return scores


class Block(nn.Module):
    """Norm, ReLU, convolution, twice, added to the input; a 1x1 convolution where the shape changes.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: 2 halves the picture.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] to [batch, outputs, height / stride, width / stride]."""
        active = F.relu(self.norm1(x))
        residual: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))

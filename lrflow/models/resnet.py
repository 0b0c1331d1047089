"""A small residual network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from lrflow.models.common import check, initialise


class ResNet(nn.Sequential):
    """Pre-activation ResNet (He et al., 2016): `stem`, `stage1`, `stage2`, ... of residual blocks, `norm`, `head`.

    Each stage after the first halves the picture (rounding up) and doubles the channels. Each block starts
    as the identity (or its shortcut), which lets deep stacks train at high rates from the first step.

    Args:
        shape: [channels, height, width].
        outputs: classes, or values to predict.
        width: channels of the first stage.
        blocks: residual blocks of each stage.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(self, shape: Sequence[int], outputs: int, width: int = 16, blocks: Sequence[int] = (2, 2, 2)) -> None:
        check(shape, outputs, image=True, width=[width], blocks=blocks)
        modules = OrderedDict[str, nn.Module](stem=nn.Conv2d(shape[0], width, 3, padding=1, bias=False))
        channels = width
        for index, count in enumerate(blocks):
            wider, stride = width * 2**index, 1 if index == 0 else 2
            modules[f"stage{index + 1}"] = nn.Sequential(
                Block(channels, wider, stride), *(Block(wider, wider) for _ in range(count - 1))
            )
            channels = wider
        modules |= {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU()}
        modules |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        head = modules["head"] = nn.Linear(channels, outputs)
        super().__init__(modules)
        initialise(self, head)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.conv2.weight)


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
        """[batch, inputs, height, width] to [batch, outputs, height / stride, width / stride], rounded up."""
        active = relu(self.norm1(x))
        residual: Tensor = self.conv2(relu(self.norm2(self.conv1(active))))
        # The shortcut that changes the shape sees the activated input, as in the paper.
        return residual + (x if self.shortcut is None else self.shortcut(active))

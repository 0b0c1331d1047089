"""A small convolutional network."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from lrflow.errors import ConfigError, Problem
from lrflow.models.common import check, initialise


class CNN(nn.Sequential):
    """Convolutional network: `stage1`, `stage2`, ... of 3x3 convolution, norm, ReLU, pooling; a linear `head`.

    Each stage halves the picture (rounding up). The head sees the strongest response of each channel in each quarter
    of what is left: where a feature lies matters, its exact place does not.

    Args:
        shape: [channels, height, width].
        outputs: classes, or values to predict.
        widths: channels of the stages.
        dropout: probability, before the head.
        norm: `batch`, or `group`: GroupNorm (Wu and He, 2018, arXiv 1803.08494) of up to eight groups, which sees each
            picture by itself.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        widths: Sequence[int] = (16, 32, 64),
        dropout: float = 0.0,
        norm: str = "batch",
    ) -> None:
        check(shape, outputs, image=True, dropout=dropout, widths=widths)
        if norm not in _NORMS:
            raise ConfigError([Problem("model.norm", "expected batch or group", norm)])
        inputs = [shape[0], *widths]
        modules = OrderedDict[str, nn.Module]()
        for index, width in enumerate(widths):
            modules[f"stage{index + 1}"] = _conv_stage(inputs[index], width, norm)
        # Plain pooling, as the gradient of torch's adaptive pooling is not deterministic on GPUs.
        left = [math.ceil(size / 2 ** len(widths)) for size in shape[1:]]
        quarter = [math.ceil(size / 2) for size in left]
        quarters = math.prod(math.ceil(size / part) for size, part in zip(left, quarter, strict=True))
        modules["quarters"] = nn.MaxPool2d(tuple(quarter), ceil_mode=True)
        modules |= {"flatten": nn.Flatten(), "dropout": nn.Dropout(dropout)}
        head = modules["head"] = nn.Linear(inputs[-1] * quarters, outputs)
        super().__init__(modules)
        initialise(self, head)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(math.gcd(width, 8), width),
}


def _conv_stage(inputs: int, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, width, 3, padding=1, bias=False),  # the norm has a bias
            norm=_NORMS[norm](width),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2, ceil_mode=True),
        )
    )

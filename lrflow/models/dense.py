"""Models of linear layers: logistic regression and the multilayer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lrflow.models.common import check, initialise


class Logistic(nn.Sequential):
    """Logistic regression (with a squared loss: linear regression): `flatten` and one linear layer, `head`.

    It starts at zero, which suits a convex problem.

    Args:
        shape: of one input, without the batch; it is flattened.
        outputs: classes, or values to predict.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        check(shape, outputs)
        super().__init__(OrderedDict(flatten=nn.Flatten(), head=nn.Linear(math.prod(shape), outputs)))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class MLP(nn.Sequential):
    """Multilayer perceptron: `stage1`, `stage2`, ... of linear, norm, ReLU and dropout, and a linear `head`.

    Args:
        shape: of one input, without the batch; it is flattened.
        outputs: classes, or values to predict.
        widths: of the hidden stages.
        norm: LayerNorm before each ReLU.
        dropout: probability, after each ReLU.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        widths: Sequence[int] = (256, 256),
        norm: bool = True,
        dropout: float = 0.1,
    ) -> None:
        check(shape, outputs, dropout=dropout, widths=widths)
        modules = OrderedDict[str, nn.Module](flatten=nn.Flatten())
        inputs = [math.prod(shape), *widths]
        for index, width in enumerate(widths):
            modules[f"stage{index + 1}"] = _linear_stage(inputs[index], width, norm, dropout)
        head = modules["head"] = nn.Linear(inputs[-1], outputs)
        super().__init__(modules)
        initialise(self, head)


def _linear_stage(inputs: int, width: int, norm: bool, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            linear=nn.Linear(inputs, width),
            norm=nn.LayerNorm(width) if norm else nn.Identity(),
            relu=nn.ReLU(),
            dropout=nn.Dropout(dropout),
        )
    )

"""Models of linear layers: logistic regression and the multilayer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from lrflow.models.common import check, initialise


class Logistic(nn.Module):
    """Logistic (with another loss: linear) regression: one linear layer, `head`, that starts at zero.

    Args:
        shape: of one input, without the batch; it is flattened.
        outputs: classes, or values to predict.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        super().__init__()
        check(shape, outputs, widths=())
        self.head = nn.Linear(math.prod(shape), outputs)
        nn.init.zeros_(self.head.weight)  # the problem is convex: no symmetry to break
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of inputs [batch, *shape]."""
        scores: Tensor = self.head(x.flatten(1))
        return scores


class MLP(nn.Module):
    """Multilayer perceptron: `stage1`, `stage2`, ... of linear, norm, ReLU and dropout, and a linear `head`.

    Args:
        shape: of one input, without the batch; it is flattened.
        outputs: classes, or values to predict.
        widths: of the hidden stages, at least one.
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
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check(shape, outputs, widths, dropout)
        self.stages = []
        width = math.prod(shape)
        for index, wider in enumerate(widths, start=1):
            self.add_module(f"stage{index}", _dense(width, wider, norm, dropout))
            self.stages.append(f"stage{index}")
            width = wider
        self.head = nn.Linear(width, outputs)
        initialise(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of inputs [batch, *shape]."""
        x = x.flatten(1)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        scores: Tensor = self.head(x)
        return scores


def _dense(inputs: int, outputs: int, norm: bool, dropout: float) -> nn.Sequential:
    stage: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(inputs, outputs))
    if norm:
        stage["norm"] = nn.LayerNorm(outputs)
    stage["relu"] = nn.ReLU()
    if dropout:
        stage["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(stage)

"""A plain torch module, independent of lrflow, Lightning and learning rates."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Net(nn.Module):
    """Hidden layers and a linear head.

    Args:
        inputs: features per example.
        outputs: predicted values per example.
        width: units per hidden layer.
        depth: number of hidden layers; 0: a linear model.
    """

    def __init__(self, inputs: int, outputs: int = 1, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        hidden = [nn.Sequential(nn.Linear(before, after), nn.SiLU()) for before, after in pairwise(sizes)]
        self.body = nn.Sequential(*hidden)
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions [batch, outputs] for inputs [batch, inputs]."""
        return self.head(self.body(inputs))

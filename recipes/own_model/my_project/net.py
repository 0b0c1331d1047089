"""A plain torch module: it knows nothing of lrflow, of Lightning or of a learning rate."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Net(nn.Module):
    """Hidden layers and a linear head.

    Args:
        inputs: numbers that describe an example.
        outputs: numbers that are predicted of it.
        width: of the hidden layers.
        depth: how many there are; 0: a linear model.
    """

    def __init__(self, inputs: int, outputs: int = 1, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        hidden = [nn.Sequential(nn.Linear(before, after), nn.SiLU()) for before, after in pairwise(sizes)]
        self.body = nn.Sequential(*hidden)
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predictions [batch, outputs] for inputs [batch, inputs]."""
        return self.head(self.body(inputs))

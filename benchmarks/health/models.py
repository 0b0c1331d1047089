"""A network with something wrong in it, for the gallery of docs/health.md."""

from __future__ import annotations

from torch import Tensor, nn


class Detached(nn.Module):
    """Two stages and a head; the second stage does not pass its gradient on to the first one.

    Args:
        detached: whether it is so; false: the network is as it should be.
        width: units of a stage.
    """

    def __init__(self, detached: bool = True, width: int = 256) -> None:
        super().__init__()
        self.detached = detached
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the class scores [batch, 10] of pictures [batch, 1, 8, 8]."""
        features = self.first(inputs)
        return self.head(self.second(features.detach() if self.detached else features))

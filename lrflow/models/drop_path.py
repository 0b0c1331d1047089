"""Drop path: residual branches that are left out at random in training (stochastic depth)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Replaces the output of a branch by 0 for some examples of a batch (Huang et al., 2016, arXiv 1603.09382).

    The others are divided by the probability that they stay, so that the mean is that of an evaluation. The random
    numbers are those of a dropout of one number per example. Models give block l of L the rate l / L of the last one's.

    Args:
        rate: probability that an example skips the branch, from 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate)

    def forward(self, branch: Tensor) -> Tensor:
        """Return [batch, ...] with the branch of some examples left out."""
        if not self.training:
            return branch
        one_each = branch[(slice(None), *[slice(1)] * (branch.ndim - 1))]
        return branch * self.dropout(torch.ones_like(one_each))

"""Data for a loss that is a surface: the gradient noise of examples."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class GradientNoise(pl.LightningDataModule):
    """Examples whose gradients differ from their mean by normal noise; an epoch has `steps` steps of batch size 1.

    Over an epoch the noise sums to zero, as the gradients of examples average to the gradient of the whole data set.
    The run's seed decides the order.

    Args:
        steps: number of examples.
        noise: standard deviation of each component of an example's gradient.
        batch_size: examples per step; the noise of a step falls with its square root.
    """

    def __init__(self, steps: int = 100, noise: float = 0.0, batch_size: int = 1) -> None:
        super().__init__()
        drawn = torch.randn(steps, 2, generator=torch.Generator().manual_seed(0))
        self._examples = TensorDataset(noise * (drawn - drawn.mean(0)))
        self._batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return a loader of noise batches, [[batch_size, 2]]."""
        return DataLoader(self._examples, self._batch_size, shuffle=True)

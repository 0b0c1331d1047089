"""What stands for the data where the loss is a surface: the noise that examples put on its gradient."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class GradientNoise(pl.LightningDataModule):
    """Examples whose gradients differ from their mean by normal noise; at a batch size of 1 an epoch is `steps` steps.

    Over an epoch the noise adds up to zero, as the gradients of a data set's examples add up to that of the whole. The
    run's seed decides the order.

    Args:
        steps: examples.
        noise: standard deviation of each component of an example's gradient.
        batch_size: examples a step; the noise of a step falls with its square root.
    """

    def __init__(self, steps: int = 100, noise: float = 0.0, batch_size: int = 1) -> None:
        super().__init__()
        drawn = torch.randn(steps, 2, generator=torch.Generator().manual_seed(0))
        self._examples = TensorDataset(noise * (drawn - drawn.mean(0)))
        self._batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of noise, [[batch_size, 2]]."""
        return DataLoader(self._examples, self._batch_size, shuffle=True)

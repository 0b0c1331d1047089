"""A LightningModule with its own loss and metrics."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import Tensor
from torch.nn import functional
from torchmetrics import R2Score

from .net import Net


class GaussianRegression(pl.LightningModule):
    """Predicts a mean and a variance, trained by the likelihood of a normal distribution (Nix and Weigend, 1994).

    It has no `configure_optimizers`: the run supplies the optimizer and its LRs. Logs `val/loss`, `val/r2` and the same
    under `test/`; the loss is the negative log-likelihood.

    Args:
        inputs: features per example.
        width: units per hidden layer.
    """

    def __init__(self, inputs: int, width: int = 64) -> None:
        super().__init__()
        self.net = Net(inputs, 2, width)
        self.val_r2 = R2Score()
        self.test_r2 = R2Score()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        return self._losses(batch)[0]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the validation metrics."""
        self._score("val", self.val_r2, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the test metrics."""
        self._score("test", self.test_r2, batch)

    def _score(self, part: str, r2: R2Score, batch: tuple[Tensor, Tensor]) -> None:
        loss, mean = self._losses(batch)
        r2(mean, batch[1])
        self.log(f"{part}/loss", loss, batch_size=len(mean))
        self.log(f"{part}/r2", r2)

    def _losses(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        mean, log_variance = self.net(inputs).unbind(1)
        return functional.gaussian_nll_loss(mean, targets, log_variance.exp(), full=True), mean

"""A linear support vector machine, trained by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.nn import functional


class LinearSVM(pl.LightningModule):
    """A linear one-versus-rest support vector machine (Cortes and Vapnik, 1995).

    The loss is the hinge max(0, 1 - margin), summed over the classes and averaged over the examples; the margin is the
    score for the class of the example and minus the score for all others. With weight decay d on weights and biases
    (`layers=uniform`) the objective is that of scikit-learn's LinearSVC with C = 1 / (d * examples). Weights start at
    zero.

    Args:
        shape: shape of one input, without the batch; inputs are flattened.
        outputs: number of classes.
        squared: use the squared hinge, which has no kink: its gradient vanishes at the minimum.
    """

    def __init__(self, shape: Sequence[int], outputs: int, squared: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(math.prod(shape), outputs)
        self.squared = squared
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the score of each class, [batch, outputs]."""
        return self.head(inputs.flatten(1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        inputs, classes = batch
        return self.loss(self(inputs), classes)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the accuracy."""
        self._report("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the accuracy."""
        self._report("test", batch)

    def loss(self, scores: Tensor, classes: Tensor) -> Tensor:
        """Return the hinge or squared hinge, summed over the classes and averaged over the examples."""
        signs = 2.0 * functional.one_hot(classes, scores.shape[1]) - 1.0
        hinge = functional.relu(1.0 - signs * scores)
        return (hinge.square() if self.squared else hinge).sum(1).mean()

    def _report(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        inputs, classes = batch
        scores = self(inputs)
        # Lightning averages over the batches, weighted by their sizes, which it cannot always infer.
        self.log(f"{stage}/loss", self.loss(scores, classes), batch_size=len(classes))
        self.log(f"{stage}/accuracy", (scores.argmax(1) == classes).float().mean(), batch_size=len(classes))

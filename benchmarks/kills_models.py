"""A network with batch norm, one with averaged weights, a GAN, and a stream with a state, for `benchmarks.kills`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lrflow.training import Supervised


class Normed(nn.Module):
    """Batch norm, dropout and noise from the global generator."""

    def __init__(self, inputs: int = 64, outputs: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(16, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the class scores [batch, outputs] of inputs [batch, ...]."""
        inputs = inputs.flatten(1)
        if self.training:
            inputs = inputs + 0.01 * torch.randn_like(inputs)
        return self.head(self.body(inputs))


class Averaged(Supervised):
    """Validates and tests the moving average of its weights."""

    def __init__(self) -> None:
        super().__init__(Normed(), "cross_entropy")

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return Lightning's average of the weights."""
        return [EMAWeightAveraging(decay=0.9)]


class Duel(pl.LightningModule):
    """A GAN with manual optimization: its generator steps where its optimizer is due."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 64))
        self.discriminator = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Step the discriminator, and the generator if it is due."""
        optimizers: Any = self.optimizers()  # a list, though Lightning's type allows a single one
        generator, discriminator = optimizers
        made = self.generator(torch.randn(len(batch[0]), 4))
        loss = self._loss(batch[0].flatten(1), real=True) + self._loss(made.detach(), real=False)
        discriminator.zero_grad()
        self.manual_backward(loss)
        discriminator.step()
        if generator.is_due:
            generator.zero_grad()
            self.manual_backward(self._loss(made, real=True))
            generator.step()
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the discriminator's loss on real inputs."""
        self.log("val/loss", self._loss(batch[0].flatten(1), real=True))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the discriminator's loss on real inputs."""
        self.log("test/loss", self._loss(batch[0].flatten(1), real=True))

    def _loss(self, inputs: Tensor, real: bool) -> Tensor:
        logits = self.discriminator(inputs)
        return nn.functional.softplus(-logits if real else logits).mean()


class Numbers(IterableDataset[tuple[Tensor, int]]):
    """Random inputs of ten classes, others in each epoch, which remembers how many it has drawn.

    It has a length, since Lightning fetches a batch ahead of a stream without one, which its state would count.
    """

    EPOCH = 320

    def __init__(self) -> None:
        self.drawn = 0

    def __len__(self) -> int:
        return self.EPOCH

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for _ in range(self.EPOCH - self.drawn % self.EPOCH):
            self.drawn += 1
            draw = torch.Generator().manual_seed(self.drawn)
            label = self.drawn % 10
            yield torch.randn(64, generator=draw) + nn.functional.one_hot(torch.tensor(label), 64), label


class Stream(pl.LightningDataModule):
    """A stream that is resumed where it was.

    Args:
        batch_size: examples per batch.
    """

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size, self.numbers, self.start = batch_size, Numbers(), 0

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the stream, from where it was interrupted."""
        return DataLoader(self.numbers, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a hundred examples."""
        return DataLoader([example for example, _ in zip(Numbers(), range(100), strict=False)], 50)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def state_dict(self) -> dict[str, Any]:
        """Return how many examples were drawn."""
        return {"drawn": self.numbers.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after these examples."""
        self.numbers.drawn = state_dict["drawn"]

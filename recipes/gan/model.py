"""A small GAN whose two networks have an optimizer each, and the Fréchet distance of its pictures from real ones."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.data.fashion_mnist.fashion_mnist import MEAN, STD

BATCH = 256  # of the classifier's training
GRID = (5, 10)  # rows and columns of samples.png


class Generator(nn.Module):
    """Pictures of 28 x 28 pixels from noise: a linear layer and two transposed convolutions (Radford et al., 2016).

    Args:
        latent: size of the noise.
        width: channels of the pictures of 14 x 14 pixels inside; those of 7 x 7 have twice as many.
    """

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, 2 * width * 49, bias=False),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Return pictures [batch, 1, 28, 28], normalised as those of the data, for noise [batch, latent]."""
        return (self.layers(noise) - MEAN) / STD


def discriminator(width: int) -> nn.Sequential:
    """Return a network that gives the logit that a picture is real; [batch, 1].

    Args:
        width: channels after the first convolution; after the second there are twice as many.
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * 49, 1),
    )


class Features(nn.Module):
    """A small classifier, trained before the run and frozen; its last hidden layer measures pictures.

    Attributes:
        steps: steps for which it was trained; saved in checkpoints, so that a resumed run keeps its classifier.
    """

    steps: Tensor
    size = 32

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * 49, self.size),
            nn.ReLU(),
        )
        self.head = nn.Linear(self.size, 10)
        self.register_buffer("steps", torch.tensor(0))
        self.requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features of pictures; [batch, size]."""
        return self.body(pictures)

    def fit(self, pictures: Tensor, classes: Tensor, steps: int) -> None:
        """Train the classifier; it depends on nothing but the pictures and a fixed seed.

        Args:
            pictures: of the training set; [examples, 1, 28, 28].
            classes: their classes; [examples].
            steps: number of steps of `BATCH` pictures, under one cycle of the LR.
        """
        devices = [] if pictures.device.type == "cpu" else [pictures.device]
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(0)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.reset_parameters()
            self.requires_grad_(True)
            optimizer = torch.optim.Adam(self.parameters())
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
            for _ in range(steps):
                chosen = torch.randint(len(pictures), (BATCH,)).to(pictures.device)
                loss = functional.cross_entropy(self.head(self(pictures[chosen])), classes[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            self.requires_grad_(False)
        self.steps.fill_(steps)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared Fréchet distance of two normal distributions with the moments of two samples.

    Dowson and Landau, 1982; of features of pictures: Heusel et al., 2017, arXiv 1706.08500.

    Args:
        first: [examples, features].
        second: [examples, features].
    """
    first, second = first.detach().double(), second.detach().double()
    means = (first.mean(0) - second.mean(0)).square().sum()
    one, other = torch.cov(first.T), torch.cov(second.T)
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # The trace of the root of `one @ other`, by a symmetric matrix with the same eigenvalues.
    shared = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return float(means + one.trace() + other.trace() - 2 * shared)


class GAN(pl.LightningModule):
    """A GAN with the non-saturating loss (Goodfellow et al., 2014) and manual optimization.

    Its optimizers are the main one, for the generator, and that of the route `discriminator`. Logs `val/frechet` and
    `test/frechet`: the Fréchet distance, by the features of a small classifier, of as many generated pictures as there
    are real ones. `train/loss` is the discriminator's. The test writes `samples.png` into the run folder.

    Args:
        latent: size of the noise.
        width: channels of the networks.
        feature_steps: steps for which the classifier is trained.
    """

    def __init__(self, latent: int = 64, width: int = 16, feature_steps: int = 400) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.latent, self.feature_steps = latent, feature_steps
        self.generator = Generator(latent, width)
        self.discriminator = discriminator(width)
        for layer in [*self.generator.modules(), *self.discriminator.modules()]:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        self.features = Features()
        self._real: list[Tensor] = []
        self._generated: list[Tensor] = []

    def forward(self, noise: Tensor) -> Tensor:
        """Return pictures for noise."""
        return self.generator(noise)

    def on_fit_start(self) -> None:
        """Train the classifier, unless the checkpoint of a resumed run has brought it."""
        if not self.features.steps:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            batches = list(islice(data.train_dataloader(), self.feature_steps * BATCH // data.batch_size + 1))
            pictures, classes = (torch.cat(part).to(self.device) for part in zip(*batches, strict=True))
            self.features.fit(pictures, classes, self.feature_steps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Step the discriminator, then the generator at the steps at which it is due; return the former's loss."""
        optimizers: Any = self.optimizers()  # a list, though Lightning's type allows a single one
        generator, discriminator = optimizers
        real, _ = batch
        noise = torch.randn(len(real), self.latent, device=self.device)
        with torch.set_grad_enabled(generator.is_due):
            generated = self.generator(noise)

        logits = self.discriminator(torch.cat([real, generated.detach()])).squeeze(1)
        loss = functional.softplus(-logits[: len(real)]).mean() + functional.softplus(logits[len(real) :]).mean()
        discriminator.zero_grad()
        self.manual_backward(loss)
        discriminator.step()

        if generator.is_due:
            self.toggle_optimizer(generator)
            fooled = functional.softplus(-self.discriminator(generated)).mean()
            generator.zero_grad()
            self.manual_backward(fooled)
            generator.step()
            self.untoggle_optimizer(generator)
        return loss.detach()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Collect the features of real pictures and of as many generated ones."""
        self._compare(batch[0], batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Collect the features of real pictures and of as many generated ones."""
        self._compare(batch[0], batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log `val/frechet`."""
        self.log("val/frechet", self._distance())

    def on_test_epoch_end(self) -> None:
        """Log `test/frechet`, and draw `samples.png`."""
        self.log("test/frechet", self._distance())
        folder = Path(self.trainer.default_root_dir)
        if self.trainer.is_global_zero and folder.is_dir():  # `trainer.fast_dev_run` has none
            self.draw(folder / "samples.png")

    def draw(self, path: Path) -> None:
        """Draw a grid of generated pictures, always from the same noise."""
        from matplotlib.image import imsave

        rows, columns = GRID
        pictures = self.generator(self._noise(rows * columns, seed=0)) * STD + MEAN
        grid = pictures.reshape(rows, columns, 28, 28).permute(0, 2, 1, 3).reshape(rows * 28, columns * 28)
        imsave(path, 1 - grid.detach().cpu().numpy(), cmap="gray", vmin=0, vmax=1)

    def _compare(self, real: Tensor, batch_idx: int) -> None:
        self._real.append(self.features(real))
        self._generated.append(self.features(self.generator(self._noise(len(real), seed=1 + batch_idx))))

    def _noise(self, count: int, seed: int) -> Tensor:
        """Return noise that is the same at each evaluation, and leaves the generators of the run as they are."""
        return torch.randn(count, self.latent, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def _distance(self) -> float:
        distance = frechet_distance(torch.cat(self._real), torch.cat(self._generated))
        self._real.clear()
        self._generated.clear()
        return distance

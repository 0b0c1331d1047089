"""Draws docs/images/sharpness.png: full-batch gradient descent that trains at the edge of stability.

`python docs/edge.py` trains for a few minutes, into a folder that is thrown away.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from lrflow.config import compose
from lrflow.config.packages import trust_packages
from lrflow.data import DataModule, Digits
from lrflow.data.module import Examples
from lrflow.tasks import train

PICTURE = Path(__file__).parent / "images" / "sharpness.png"
RUN = (
    "model=custom",
    "model._target_=edge.network",
    "model.loss=mse",
    "data=custom",
    "data._target_=edge.OneHotDigits",
    "layers=uniform",
    "optimizer=sgd",
    "optimizer.lr=1.5",
    "optimizer.weight_decay=0",
    "schedule=wsd",
    "schedule.warmup=30%",
    "schedule.cooldown=25%",
    "trainer.max_epochs=4000",
    "trainer.val_every=100%",
    "trainer.checkpoint.every=100%",
    "trainer.checkpoint.monitor=null",
    "trainer.accelerator=cpu",
    "sharpness.every=25 steps",
    "sharpness.batches=1",
    "task.test=false",
)


class OneHotDigits(DataModule):
    """500 digits in one batch, their classes as vectors of 0 and 1: under a squared loss the curvature does not vanish
    as the examples are learned, as it does under cross-entropy."""

    def __init__(self) -> None:
        super().__init__(batch_size=500, val_size=100)

    def load(self) -> tuple[Examples, None]:
        """600 examples: the last 100 are held out."""
        inputs, classes = Digits().load()[0]
        return Examples(inputs[:600].float() / 16, nn.functional.one_hot(classes[:600], 10).float()), None


def network() -> nn.Module:
    """A perceptron of 2,410 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


if __name__ == "__main__":
    torch.set_num_threads(1)
    trust_packages(["edge"])
    with TemporaryDirectory() as folder:
        done = train.run(compose([*RUN, f"output={folder}"]))
        shutil.copy(Path(done["folder"]) / "sharpness.png", PICTURE)

"""What every way to find an LR starts from: data in order, and a new model."""

from __future__ import annotations

import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.tasks import build
from lrflow.training.loaders import put_in_order
from lrflow.training.position import Position


def prepare(config: Config, trainer: pl.Trainer, seed: int) -> tuple[pl.LightningDataModule, pl.LightningModule]:
    """The data, set up, and the module.

    Args:
        config: of the run.
        trainer: tells the devices that share the data.
        seed: of the order of the data; the weights are drawn from torch's generator as it is.
    """
    data = build.build_data(config)
    put_in_order(data, trainer, seed, Position())
    data.trainer = trainer
    with build.one_at_a_time("data"):
        data.prepare_data()
    data.setup("fit")
    return data, build.build_module(config)

"""The data of a run, from its config to loaders in the run's order."""

from __future__ import annotations

import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.tasks import build
from lrflow.training.loaders import put_in_order
from lrflow.training.position import Position


def ready_data(
    config: Config,
    trainer: pl.Trainer,
    seed: int,
    position: Position | None = None,
    loaded: pl.LightningDataModule | None = None,
) -> pl.LightningDataModule:
    """The data module, set up for training.

    Args:
        config: of the run.
        trainer: tells the devices that share the data.
        seed: of its order.
        position: the batch that a resumed run goes on with; None: the first.
        loaded: the data module where it has been set up already; changed in place. None: it is built.

    Raises:
        ConfigError: it is no data module.
    """
    data = loaded or build.build_data(config)
    put_in_order(data, trainer, seed, position or Position())
    data.trainer = trainer
    if loaded:
        return data
    with build.one_at_a_time("data"):
        data.prepare_data()
    data.setup("fit")
    return data

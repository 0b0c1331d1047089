"""The data of a run, from its config to loaders in the run's order."""

from __future__ import annotations

import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.tasks import build
from lrflow.training.loaders import put_in_order
from lrflow.training.position import START, Position
from lrflow.training.trainer import quieten_lightning


def ready_data(
    config: Config,
    trainer: pl.Trainer | None,
    seed: int,
    position: Position | None = None,
    loaded: pl.LightningDataModule | None = None,
    processes: int = 1,
) -> pl.LightningDataModule:
    """The data module, set up for training.

    Args:
        config: of the run.
        trainer: tells which of how many processes that share the data this is; None: nothing is to be trained, and it
            is the first.
        seed: of its order.
        position: the batch that a resumed run goes on with; None: the first.
        loaded: the data module where it has been set up already; changed in place. None: it is built.
        processes: that share the data, where there is no trainer.

    Raises:
        ConfigError: it is no data module.
    """
    quieten_lightning()  # which looks at the loaders also where there is no trainer
    data = loaded or build.build_data(config)
    rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, processes)
    put_in_order(data, seed, position or START, rank, world)
    data.trainer = trainer
    if loaded:
        return data
    with build.one_at_a_time("data"):
        data.prepare_data()
    data.setup("fit")
    return data

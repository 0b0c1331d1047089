"""Batches that change over a run, as its plan has them: of accumulated batches, or of a loader that changes its own."""

from __future__ import annotations

from functools import cache, wraps
from typing import Any

import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.config.batch_schedule import batch_unit
from lrflow.data import is_ordered
from lrflow.data.order import vary_batches
from lrflow.schedules import Horizon
from lrflow.training.accumulation import WindowMean
from lrflow.training.trainer import Trainer


def follow_batches(config: Config, trainer: Trainer, data: pl.LightningDataModule, horizon: Horizon) -> None:
    """Let a run make the batches of its plan.

    Args:
        config: of the run, with `schedule.batch`.
        trainer: changed in place.
        data: set up, with loaders in the order of the run; changed in place.
        horizon: length of the run, with its batches.
    """
    if horizon.batch is None:
        return
    trainer.batch_unit = batch_unit(config, trainer.world_size)
    if trainer.batch_unit is not None:
        if not any(isinstance(one, WindowMean) for one in trainer.callbacks):  # type: ignore[attr-defined]
            trainer.callbacks.insert(1, WindowMean())  # type: ignore[attr-defined]
        return
    trainer.varies_loader = True
    trainer.limit_train_batches = 1.0  # the limit is that of an epoch, in batches of one size
    make, batch = data.train_dataloader, horizon.batch
    parts, world = trainer.accumulate_grad_batches, trainer.world_size

    @cache
    def ends(epoch: int) -> list[int]:
        return [samples // world for samples in batch.batches_in(epoch, parts)]

    @wraps(make)
    def loaders() -> Any:
        result = make()
        if is_ordered(result):
            vary_batches(result, ends)
        return result

    data.train_dataloader = loaders  # type: ignore[method-assign]

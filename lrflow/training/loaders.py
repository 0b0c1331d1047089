"""The loaders of any data module, in an order that is a pure function of the seed, the epoch and the device."""

from __future__ import annotations

import logging
from functools import wraps
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils._pytree import tree_map_only
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lrflow.data import is_ordered, ordered
from lrflow.training.position import START, Position

log = logging.getLogger("lrflow")


def put_in_order(
    data: pl.LightningDataModule, seed: int, position: Position = START, rank: int = 0, world: int = 1
) -> None:
    """Make a data module's loaders resumable and sharded; they stay the user's in everything else.

    `setup` runs once a stage, since lrflow counts the run's steps before Lightning sets the data up again. A data
    module that brings back its own state from a checkpoint (`load_state_dict`) knows itself where its loaders stand.

    Args:
        data: changed in place.
        seed: of the order.
        position: where the training loader begins.
        rank: this process, from 0.
        world: processes that share the data.
    """

    told: list[object] = []

    def in_order(loader: DataLoader[Any], training: bool, alone: bool) -> DataLoader[Any]:
        # Of several loaders the shorter ones begin again within an epoch, so none can be begun in its middle.
        at = position if training and alone else Position(position.epoch if training else 0)
        if training and not alone and position.batch:
            log.warning("of several training loaders each begins its epoch anew: the resumed run is not exact")
        result = ordered(loader, seed, rank, world, epoch=at.epoch, start=at.batch, pad=training)
        if training and not is_ordered(result) and not is_overridden("load_state_dict", data) and not told:
            told.append(loader)
            log.warning(
                "the training loader brings its own order (%s): a run interrupted within an epoch cannot be resumed "
                "exactly, and lrflow does not shard it over devices",
                type(_what_orders(loader)).__name__,
            )
        return result

    def wrap(name: str, training: bool) -> None:
        make = getattr(data, name)

        @wraps(make)
        def loaders() -> Any:
            made = make()
            alone = isinstance(made, DataLoader)
            return tree_map_only(DataLoader, lambda loader: in_order(loader, training, alone), made)

        setattr(data, name, loaders)

    wrap("train_dataloader", training=True)
    for name in ("val_dataloader", "test_dataloader"):
        wrap(name, training=False)

    setup, done = data.setup, set()

    @wraps(setup)
    def setup_once(stage: str) -> None:
        if stage not in done:
            setup(stage)
            done.add(stage)

    data.setup = setup_once  # type: ignore[method-assign]


def _what_orders(loader: DataLoader[Any]) -> object:
    """What decides the order of a loader's examples: its data, its batch sampler or its sampler."""
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset
    return loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler

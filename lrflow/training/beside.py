"""Training batches for steps beside the training, which does not notice."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from lrflow.data import ordered


def batches_beside(trainer: pl.Trainer, seed: int) -> Iterator[Any]:
    """Training batches, from loaders beside those that the training goes through.

    Of a loader that brings an order of its own, they are the first that it gives when it is asked anew.

    Args:
        trainer: of the fit; its training loaders give the data.
        seed: of the order.
    """
    combined = trainer.fit_loop._combined_loader
    assert combined is not None

    def beside(loader: DataLoader[Any]) -> DataLoader[Any]:
        result = copy.copy(ordered(loader, seed))
        vars(result).update(persistent_workers=False, _iterator=None)
        return result

    loaders = CombinedLoader(tree_map_only(DataLoader, beside, combined.iterables), combined._mode)
    return (batch for batch, _, _ in iter(loaders))


def as_trained(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """A batch as the training step is given it: of the trainer's precision, on its device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, within `isolated`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)

"""Looking at the training data and at training steps beside the training, which goes on as if nobody had."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lrflow.data import ordered
from lrflow.training.random_state import random_state, set_random_state


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


@contextmanager
def undisturbed(module: pl.LightningModule, changing: Sequence[Tensor] = ()) -> Iterator[None]:
    """What training steps change is put back: generators, buffers, metrics. What they log is not logged.

    Args:
        module: whose steps are made.
        changing: buffers that are meant to change.
    """
    generators = random_state()
    meant = {id(buffer) for buffer in changing}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers() if id(buffer) not in meant]
    metrics = [(metric, _state(metric)) for metric in module.modules() if isinstance(metric, Metric)]
    silent = {name: lambda *_, **__: None for name in ("log", "log_dict") if name not in vars(module)}
    vars(module).update(silent)
    try:
        yield
    finally:
        for name in silent:
            del vars(module)[name]
        for metric, state in metrics:
            vars(metric).update(state)
        for buffer, before in buffers:
            buffer.copy_(before)
        set_random_state(generators)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, within `undisturbed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _state(metric: Metric) -> dict[str, Any]:
    """What updates of a metric change; a list of tensors grows in place, and tensors may too."""
    state = {
        name: list(value) if isinstance(value, list) else value.clone() for name, value in metric.metric_state.items()
    }
    return {**state, **{name: vars(metric)[name] for name in ("_update_count", "_computed")}}

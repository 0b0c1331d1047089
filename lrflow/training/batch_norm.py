"""BatchNorm's running statistics, estimated for weights that no training step has run at."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lrflow.data import ordered
from lrflow.training.random_state import random_state, set_random_state


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The means, variances and counts that BatchNorm layers keep for evaluation, in the order of the layers."""
    return [
        statistic
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
        for statistic in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
        if statistic is not None
    ]


def estimate_statistics(trainer: pl.Trainer, module: pl.LightningModule, batches: int, seed: int) -> None:
    """Set the running statistics to plain averages over training batches at the present weights.

    Layers that do not train, such as those of a backbone kept in evaluation mode, keep theirs. The module's own
    `training_step` is run without gradients on the same batches each time, all of them on every device: they are a
    function of the seed, and nothing else that belongs to the training is touched (generators, the loader's iterator,
    other buffers, metrics, what the step logs).

    Args:
        trainer: of the fit; its training loaders give the data.
        module: changed in place.
        batches: how many at most; one epoch's are the end of it. 0 changes nothing.
        seed: of their order, and of what data and model draw.
    """
    with torch.inference_mode(False), torch.no_grad(), _in_training(trainer, module):
        layers = [
            layer
            for layer in module.modules()
            if isinstance(layer, _BatchNorm) and layer.training and layer.running_mean is not None
        ]
        if not layers or not batches:
            return
        momenta = [layer.momentum for layer in layers]
        with _left_alone(module, layers):
            _seed(seed)
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # torch's word for a cumulative average
            try:
                for index, batch in enumerate(islice(_batches(trainer, seed), batches)):
                    _run_step(trainer, module, batch, index)
            finally:
                for layer, momentum in zip(layers, momenta, strict=True):
                    layer.momentum = momentum


def _batches(trainer: pl.Trainer, seed: int) -> Iterator[Any]:
    """Training batches, from loaders beside those that the training goes through.

    Of a loader that brings an order of its own, they are the first that it gives when it is asked anew.
    """
    combined = trainer.fit_loop._combined_loader
    assert combined is not None

    def beside(loader: DataLoader[Any]) -> DataLoader[Any]:
        result = copy.copy(ordered(loader, seed))
        vars(result).update(persistent_workers=False, _iterator=None)
        return result

    loaders = CombinedLoader(tree_map_only(DataLoader, beside, combined.iterables), combined._mode)
    return (batch for batch, _, _ in iter(loaders))


def _run_step(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
    """A training step as Lightning runs it, but for the strategy's wrapper around the module."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    arguments = trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, index)
    with trainer.precision_plugin.train_step_context():
        module.training_step(*arguments.values())


@contextmanager
def _in_training(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """The stage of the trainer and the mode of every module that training has, though this may be a validation."""
    stage, modes = trainer.state.stage, {one: one.training for one in module.modules()}
    if trainer.validating:
        trainer.fit_loop.epoch_loop.val_loop._module_mode.restore(module)
    trainer.state.stage = RunningStage.TRAINING
    try:
        yield
    finally:
        trainer.state.stage = stage
        for one, mode in modes.items():
            one.training = mode


@contextmanager
def _left_alone(module: pl.LightningModule, layers: list[_BatchNorm]) -> Iterator[None]:
    """What a training step changes besides the layers' statistics is put back; what it logs is not logged."""
    generators = random_state()
    estimated = {id(statistic) for layer in layers for statistic in running_statistics(layer)}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers() if id(buffer) not in estimated]
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


def _state(metric: Metric) -> dict[str, Any]:
    """What updates of a metric change; a list of tensors grows in place, and tensors may too."""
    state = {
        name: list(value) if isinstance(value, list) else value.clone() for name, value in metric.metric_state.items()
    }
    return {**state, **{name: vars(metric)[name] for name in ("_update_count", "_computed")}}


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)

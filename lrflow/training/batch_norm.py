"""BatchNorm's running statistics, estimated for weights that no training step has run at."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import RunningStage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lrflow.training.beside import as_trained, batches_beside, seed_generators
from lrflow.training.isolation import isolated


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
        with isolated(module, [statistic for layer in layers for statistic in running_statistics(layer)]):
            seed_generators(seed)
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # torch's word for a cumulative average
            for index, batch in enumerate(islice(batches_beside(trainer, seed), batches)):
                _run_step(trainer, module, batch, index)


def _run_step(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
    """A training step as Lightning runs it, but for the strategy's wrapper around the module."""
    batch = as_trained(trainer, module, batch)
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

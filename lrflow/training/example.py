"""Run one example batch through a copy of a module before the training, without side effects.

`isolated` in `isolation.py` restores a module during training. Before the training a copy that shares the parameters
also isolates what cannot be restored, such as lazy modules.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, IterableDataset

from lrflow.layers.parameters import Uses, UseTracer
from lrflow.training.module import planned_module

CPU = torch.device("cpu")


class NoExampleError(Exception):
    """Raised if there is no example, or if the module fails on it; the message holds the reason."""


def trace_uses(module: pl.LightningModule, data: pl.LightningDataModule | None) -> Uses:
    """Return the order in which a module uses its parameters in a training step.

    Args:
        module: a module on the CPU.
        data: set up for training; None: not loaded.

    Raises:
        NoExampleError: there is no example, the module fails on it, or no operation connects its parameters.
    """
    traces: list[UseTracer] = []

    def watch(replica: pl.LightningModule) -> UseTracer:
        traces.append(UseTracer(planned_module(replica)))
        return traces[0]

    run_example(module, data, watch)
    uses = traces[0].uses
    if not uses.are_connected:
        raise NoExampleError("no operation of torch leads from one of its parameters to another")
    return uses


def run_example(
    module: pl.LightningModule,
    data: pl.LightningDataModule | None,
    watch: Callable[[pl.LightningModule], AbstractContextManager[Any]],
    stage: str = "fit",
) -> None:
    """Run a copy of a module on one small batch, in evaluation mode and without gradients.

    The copy runs its training step; if the data provide no example, or if it uses manual optimization, its forward on
    `example_input_array`.

    Args:
        module: a module on the CPU; it may have lazy parameters.
        data: set up for the stage; None: no data.
        watch: given the copy, returns the context in which it runs.
        stage: whose loaders to use: `fit`, `validate` or `test`.

    Raises:
        NoExampleError: there is no example, or the copy fails on it.
    """
    with _preserve_cpu_generators():
        batch: Any = None
        reason = "the data were not read"
        if not module.automatic_optimization:
            reason = "its training step steps optimizers, and it has no example_input_array"
        elif data is not None:
            try:
                batch = example_batch(data, stage)
            except NoExampleError as error:
                reason = str(error)
        inputs = getattr(module, "example_input_array", None)
        if batch is None and inputs is None:
            raise NoExampleError(reason)
        try:
            replica = _copy(module)
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), watch(replica):
                if batch is not None:
                    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
                        owner = data if is_overridden(hook, data) else replica
                        batch = getattr(owner, hook)(batch, 0)
                    replica.training_step(batch, 0)
                elif isinstance(inputs, Mapping):
                    replica(**inputs)
                else:
                    replica(*inputs) if isinstance(inputs, tuple) else replica(inputs)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            message = f"the model fails on an example before the training: {type(error).__name__}: {reason}"
            raise NoExampleError(message) from error


def example_batch(data: pl.LightningDataModule, stage: str = "fit") -> Any:
    """Return the first two examples of a data module as a batch, in the structure of its loaders.

    Raises:
        NoExampleError: the data are a stream, which would lose an example, or cannot be indexed.
    """
    loaders = getattr(data, {"fit": "train", "validate": "val", "test": "test"}[stage] + "_dataloader")()
    try:
        return tree_map_only(DataLoader, _example, loaders) if not _has_streams(loaders) else _reject_stream(loaders)
    except (KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise NoExampleError(f"the data give no example: {type(error).__name__}: {error}") from error


def _has_streams(loaders: Any) -> bool:
    """Whether anything in a nest of loaders is not a DataLoader."""
    leaves: list[bool] = []
    tree_map_only(object, lambda leaf: leaves.append(isinstance(leaf, DataLoader)), loaders)
    return not all(leaves)


def _reject_stream(loader: object) -> Any:
    raise NoExampleError(f"the data are a stream ({type(loader).__name__}), from which no example is taken")


def _example(loader: DataLoader[Any]) -> Any:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return _reject_stream(dataset)
    if loader.batch_sampler is None:
        return loader.collate_fn(dataset[0])
    indices = list(range(min(2, len(dataset))))
    fetch = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(fetch(indices) if callable(fetch) else [dataset[index] for index in indices])


def _copy(module: pl.LightningModule) -> pl.LightningModule:
    """Return a copy that shares the parameters and the trainer, on the CPU, in evaluation mode, with logging off."""
    shared: list[Any] = [parameter for parameter in module.parameters() if not nn.parameter.is_lazy(parameter)]
    trainers = {id(part._trainer): part._trainer for part in module.modules() if isinstance(part, pl.LightningModule)}
    memo = {id(value): value for value in [*shared, *trainers.values()] if value is not None}
    for buffer in module.buffers():
        if nn.parameter.is_lazy(buffer):  # torch cannot copy these
            memo[id(buffer)] = nn.UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]
    for part in module.modules():  # weights that a hook recomputes, as of weight_norm; torch cannot copy them
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()
    result = copy.deepcopy(module, memo)
    for part in result.modules():
        if isinstance(part, _DeviceDtypeModuleMixin):
            part._device = CPU
        if isinstance(part, pl.LightningModule):
            vars(part).update(log=_silent, log_dict=_silent)
    return result.eval()


def _silent(*_: Any, **__: Any) -> None:
    """Logs nothing."""


@contextmanager
def _preserve_cpu_generators() -> Iterator[None]:
    """Restore the CPU's generators afterwards; CUDA is not initialized, since a launcher may still have to fork."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

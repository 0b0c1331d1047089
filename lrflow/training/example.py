"""One example batch run through a copy of a module, which leaves the module, the data and the generators as they were.

`isolated` in `isolation.py` restores a module that trains; before the run there is no trainer state to keep, and a copy
that shares the parameters also isolates what no restoring reaches, such as lazy modules.
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


class ExampleError(Exception):
    """There is no example, or the module cannot be run on it; the message says why."""


def trace_uses(module: pl.LightningModule, data: pl.LightningDataModule | None) -> Uses:
    """In which order a module uses its parameters in a training step.

    Args:
        module: on the CPU.
        data: set up for training; None: they were not read.

    Raises:
        ExampleError: there is no example, the module cannot be run on it, or its data cannot be followed.
    """
    traces: list[UseTracer] = []

    def watch(alike: pl.LightningModule) -> UseTracer:
        traces.append(UseTracer(planned_module(alike)))
        return traces[0]

    run_example(module, data, watch)
    uses = traces[0].uses
    if not uses.are_connected:
        raise ExampleError("no operation of torch leads from one of its parameters to another")
    return uses


def run_example(
    module: pl.LightningModule,
    data: pl.LightningDataModule | None,
    watch: Callable[[pl.LightningModule], AbstractContextManager[Any]],
    stage: str = "fit",
) -> None:
    """Run a copy of a module on one small batch, in evaluation mode and without gradients.

    The copy makes its training step; where the data give no example, its forward on `example_input_array`.

    Args:
        module: on the CPU; it may have lazy parameters.
        data: set up for the stage; None: there are none.
        watch: of the copy, makes what it runs within.
        stage: whose loaders to take: `fit`, `validate` or `test`.

    Raises:
        ExampleError: there is no example, or the copy fails on it.
    """
    with _generators_kept():
        batch: Any = None
        why = "the data were not read"
        if data is not None:
            try:
                batch = example_batch(data, stage)
            except ExampleError as error:
                why = str(error)
        inputs = getattr(module, "example_input_array", None)
        if batch is None and inputs is None:
            raise ExampleError(why)
        try:
            alike = _copy(module)
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), watch(alike):
                if batch is not None:
                    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
                        owner = data if is_overridden(hook, data) else alike
                        batch = getattr(owner, hook)(batch, 0)
                    alike.training_step(batch, 0)
                elif isinstance(inputs, Mapping):
                    alike(**inputs)
                else:
                    alike(*inputs) if isinstance(inputs, tuple) else alike(inputs)
        except Exception as error:
            said = str(error).partition("\n")[0]
            message = f"the model fails on an example before the training: {type(error).__name__}: {said}"
            raise ExampleError(message) from error


def example_batch(data: pl.LightningDataModule, stage: str = "fit") -> Any:
    """The first two examples of a data module as a batch, in the structure of its loaders.

    Raises:
        ExampleError: the data are a stream, which an example would be taken from, or cannot be indexed.
    """
    made = getattr(data, {"fit": "train", "validate": "val", "test": "test"}[stage] + "_dataloader")()
    try:
        return tree_map_only(DataLoader, _example, made) if not _is_foreign(made) else _no_example(made)
    except (KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise ExampleError(f"the data give no example: {type(error).__name__}: {error}") from error


def _is_foreign(loaders: Any) -> bool:
    """Whether anything in a nest of loaders is no DataLoader."""
    leaves: list[bool] = []
    tree_map_only(object, lambda leaf: leaves.append(isinstance(leaf, DataLoader)), loaders)
    return not all(leaves)


def _no_example(loader: object) -> Any:
    raise ExampleError(f"the data are a stream ({type(loader).__name__}), from which no example is taken")


def _example(loader: DataLoader[Any]) -> Any:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return _no_example(dataset)
    if loader.batch_sampler is None:
        return loader.collate_fn(dataset[0])
    indices = list(range(min(2, len(dataset))))
    many = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(many(indices) if callable(many) else [dataset[index] for index in indices])


def _copy(module: pl.LightningModule) -> pl.LightningModule:
    """A copy that shares the parameters and the trainer, on the CPU, in evaluation mode; what it logs is dropped."""
    shared: list[Any] = [parameter for parameter in module.parameters() if not nn.parameter.is_lazy(parameter)]
    trainers = {id(part._trainer): part._trainer for part in module.modules() if isinstance(part, pl.LightningModule)}
    memo = {id(value): value for value in [*shared, *trainers.values()] if value is not None}
    for buffer in module.buffers():
        if nn.parameter.is_lazy(buffer):  # torch cannot copy these
            made = nn.UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]
            memo[id(buffer)] = made
    for part in module.modules():  # weights that a hook computes anew; torch refuses to copy them
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
def _generators_kept() -> Iterator[None]:
    """Leave the CPU's generators as they were; no CUDA device is touched, which a launcher may still have to fork."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

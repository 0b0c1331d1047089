"""Floating-point operations of a step, counted once while a run makes its first one."""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.throughput import get_available_flops
from pytorch_lightning import Callback
from pytorch_lightning.callbacks.throughput_monitor import _plugin_to_compute_dtype
from torch.utils.flop_counter import FlopCounterMode

from lrflow.config import Config
from lrflow.optimizers.routed import member_optimizers
from lrflow.optimizers.traits import traits_of
from lrflow.training.hooks import switch_hooks

FLOPS, MFU = "throughput/flops", "throughput/mfu"
"""Columns of the operations per second of all devices together, and their share of the most that these can do."""

_COUNTING = dict.fromkeys(
    ("on_train_batch_start", "on_after_backward", "on_before_optimizer_step", "on_train_batch_end"), False
)
"""The hooks that count, once they are done."""


class FlopMeter(Callback):
    """Counts the operations of the forward and backward passes of the first step that the process makes.

    It watches the step itself, so nothing is computed twice and no random number is drawn. Only matrix products,
    convolutions and attention count, as torch's `FlopCounterMode` has it; the optimizer's update does not.

    Nothing is counted if steps differ: with manual optimization, a line search, second derivatives or a compiled model.

    Args:
        peak: the most operations per second of one device; None: as Lightning knows it.

    Attributes:
        per_step: the operations of a step on all devices; None: they are not known.
    """

    def __init__(self, peak: float | None = None) -> None:
        self.per_step: int | None = None
        self._peak = peak
        self._done = True
        self._counted = 0
        self._mode: FlopCounterMode | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide whether to count; not again after a rollback."""
        self._done = self.per_step is not None or _differs(trainer, pl_module)
        if self._done:
            switch_hooks(trainer, self, **_COUNTING)
        if self._peak is None:
            self._peak = _peak_of(trainer)

    def use(self, trainer: pl.Trainer, steps_per_second: float) -> dict[str, float]:
        """Return the operations per second of all devices, and their share of the peak, as far as these are known."""
        if self.per_step is None:
            return {}
        found = {FLOPS: self.per_step * steps_per_second}
        return found if self._peak is None else {**found, MFU: found[FLOPS] / (self._peak * trainer.world_size)}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the operations of a batch of the first step."""
        if not self._done:
            self._mode = FlopCounterMode(display=False)
            self._mode.__enter__()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the count of the batch."""
        self._end()

    def _end(self) -> None:
        if self._mode is not None:
            mode, self._mode = self._mode, None
            mode.__exit__(None, None, None)
            self._counted += mode.get_total_flops()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """End the count of the step."""
        if not self._done:
            self._done = True
            self.per_step = self._counted * trainer.world_size or None
            switch_hooks(trainer, self, **_COUNTING)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the count of a batch that had no loss."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the count of a batch that raised."""
        self._end()


def flop_meter(config: Config) -> FlopMeter | None:
    """Return what counts the operations of a run's steps; None: `signals.machine` is off, or they cannot be counted.

    A compiled model hides its operations, and devices that share weights do some of them several times.

    Args:
        config: of the run.
    """
    shared = config.trainer.strategy_name.startswith(("fsdp", "deepspeed"))
    if not config.signals.machine or config.trainer.compile or shared:
        return None
    return FlopMeter(config.signals.peak_flops)


def _differs(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether the operations of one step say nothing about those of another, or are hidden."""
    traits = [traits_of(type(one)) for one in member_optimizers(trainer.optimizers[0]).values()]
    evaluates = any(one.needs_closure or one.line_search or one.second_order for one in traits)
    compiled = any(
        hasattr(one, "_orig_mod") or getattr(one, "_compiled_call_impl", None) is not None for one in module.modules()
    )
    return evaluates or compiled or not module.automatic_optimization


def _peak_of(trainer: pl.Trainer) -> float | None:
    """Return the most operations per second of one device at the precision of a run; None: Lightning has no record."""
    device = trainer.strategy.root_device
    if device.type == "cpu":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_available_flops(device, _plugin_to_compute_dtype(trainer.precision_plugin))

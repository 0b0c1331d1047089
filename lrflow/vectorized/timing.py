"""Measure how much faster a population trains than its members alone, on this device with this model and batch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback

from lrflow.schedules import Horizon
from lrflow.training.signals import Signals
from lrflow.training.trainer import Trainer
from lrflow.vectorized.member import Member, StackedBatches, stack

STEPS, WARMUP = 12, 4
"""Steps of the ordinary run, and how many of them are not timed."""

TOGETHER = 5
"""Timed steps of the population at most, after one that is not timed."""

SHARE = 0.01
"""Share of the time that the ordinary runs would take, after which no further step of the population is timed."""

COMPILING = 0.02
"""Share of that time that compiling an ordinary run may take; above it, compiling a population is not tried.

To compile a population took seven times as long (an MLP on a CPU, torch 2.13).
"""


@dataclass(frozen=True)
class Timing:
    """The measured times.

    Args:
        ordinary: seconds per step of an ordinary run.
        together: seconds per step of the population.
        size: the number of members of the population.
        steps: the number of steps of a run.
        compiling: seconds that it took to compile the population's step.
    """

    ordinary: float
    together: float
    size: int
    steps: int
    compiling: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times as fast the population is as its members one after the other.

        The time that ordinary runs take to compile is not counted, since all but the first find most of it cached.
        """
        return self.size * self.ordinary * self.steps / (self.compiling + self.together * self.steps)


def time_ordinary(trainer: Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> tuple[float, float]:
    """Time the first steps of an ordinary run, which is discarded.

    Args:
        trainer: the trainer of the run, without loggers.
        module: the module with its optimizer and plan.
        data: the data, set up.

    Returns:
        Seconds per step, and the seconds before the first timed step, which include compiling.
    """
    clock = _Clock(WARMUP)
    signals = [one for one in trainer.callbacks if isinstance(one, Signals)]  # type: ignore[attr-defined]
    trainer.callbacks = [*signals, clock]  # type: ignore[attr-defined]
    trainer.limit_val_batches = 0
    trainer.run_for(Horizon(STEPS))
    started = _now(module.device)
    trainer.fit(module, datamodule=data)
    return clock.step, clock.started - started


def time_together(member: Member, size: int, budget: float, compiled: bool = False) -> tuple[float, float]:
    """Time steps of a population of copies of one member, which is not changed.

    Args:
        member: the member, attached.
        size: the number of copies.
        budget: seconds after which no further step is timed.
        compiled: whether the step of the population is compiled.

    Returns:
        Seconds per step, and the seconds that compiling took.
    """
    device = member.trainer.strategy.root_device
    population, coefficients = stack([member] * size, device, compiled)
    one = next(iter(StackedBatches([member.data.train_dataloader()], device).epoch(0)))
    inputs, targets = (part.repeat(size, *[1] * (part.ndim - 1)) for part in one)
    compiling = 0.0
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) <= TOGETHER and sum(taken) < budget):
        started = _now(device)
        population.step(inputs, targets, coefficients.at(0))
        if compiled and not compiling:
            compiling = _now(device) - started
        else:
            taken.append(_now(device) - started)
    return float(np.mean(taken[1:])), compiling


class _Clock(Callback):
    """Times the steps of a fit after the warmup; a fit that ends earlier is timed whole."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *given: Any) -> None:
        """Start the clock at the first step, and again after the warmup."""
        if trainer.global_step in (0, self._warmup):
            self.started, self._first = _now(pl_module.device), trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the seconds per step."""
        self.step = (_now(pl_module.device) - self.started) / (trainer.global_step - self._first)


def _now(device: torch.device) -> float:
    """The time after all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

"""A short measurement of whether training together pays: on this device, with this model and batch."""

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

STEPS, WARMUP = 12, 4  # of the ordinary run
TOGETHER = 5  # steps of the population at most, after one that is not counted
SHARE = 0.01  # of the time that the ordinary runs would take: the population's steps stop there
# Compiling is tried where an ordinary run's takes no more of that time: a population's took seven times as long (an MLP
# on a CPU, torch 2.13).
COMPILING = 0.02


@dataclass(frozen=True)
class Timing:
    """What was measured.

    Args:
        ordinary: seconds of an ordinary run's step.
        together: seconds of a population's step.
        size: members of the population.
        steps: of a run.
        compiling: seconds that it took to compile the population's step.
    """

    ordinary: float
    together: float
    size: int
    steps: int
    compiling: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times faster the population is than its members one after the other.

        What these compile is not counted: the first does it, and the others find most of it done.
        """
        return self.size * self.ordinary * self.steps / (self.compiling + self.together * self.steps)


def time_ordinary(trainer: Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> tuple[float, float]:
    """Begins an ordinary run, and throws it away.

    Args:
        trainer: of the run; without its loggers.
        module: supplied with its optimizer and plan.
        data: set up.

    Returns:
        seconds of a step, and seconds until there are steps like it: what is compiled, is compiled before.
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
    """Makes steps of a population, of copies of one member that is left as it is.

    Args:
        member: attached.
        size: how many copies.
        budget: seconds after which no further step is timed.
        compiled: whether its step is compiled.

    Returns:
        seconds of a step, and seconds that it took to be compiled.
    """
    device = member.trainer.strategy.root_device
    population, numbers = stack([member] * size, device, compiled)
    one = next(iter(StackedBatches([member.data.train_dataloader()], device).epoch(0)))
    inputs, targets = (part.repeat(size, *[1] * (part.ndim - 1)) for part in one)
    compiling = 0.0
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) <= TOGETHER and sum(taken) < budget):
        started = _now(device)
        population.step(inputs, targets, numbers.at(0))
        if compiled and not compiling:
            compiling = _now(device) - started
        else:
            taken.append(_now(device) - started)
    return float(np.mean(taken[1:])), compiling


class _Clock(Callback):
    """Times the steps of a fit after the first few; where there are no more, all of them."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *given: Any) -> None:
        """Start after the warmup."""
        if trainer.global_step in (0, self._warmup):
            self.started, self._first = _now(pl_module.device), trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.step = (_now(pl_module.device) - self.started) / (trainer.global_step - self._first)


def _now(device: torch.device) -> float:
    """The time when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

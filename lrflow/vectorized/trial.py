"""A short measurement of whether training together pays: on this device, with this model and batch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback

from lrflow.training.signals import Signals
from lrflow.vectorized.batches import StackedBatches
from lrflow.vectorized.member import Member, stack

STEPS, WARMUP = 12, 4  # of the ordinary run
TOGETHER = 5  # steps of the population at most, after one that is not counted
SHARE = 0.02  # of the time that the ordinary runs would take: the population's steps stop there


@dataclass(frozen=True)
class Trial:
    """What was measured.

    Args:
        ordinary: seconds of an ordinary run's step.
        together: seconds of a population's step.
        size: members of the population.
    """

    ordinary: float
    together: float
    size: int

    @property
    def ratio(self) -> float:
        """How many times faster the population's step is than a step of each of its members."""
        return self.size * self.ordinary / self.together


def time_ordinary(trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> float:
    """Seconds of a step of an ordinary run, which is begun and thrown away.

    Args:
        trainer: of the run; without its loggers.
        module: supplied with its optimizer and plan.
        data: set up.
    """
    clock = _Clock(WARMUP)
    signals = [one for one in trainer.callbacks if isinstance(one, Signals)]  # type: ignore[attr-defined]
    trainer.callbacks = [*signals, clock]  # type: ignore[attr-defined]
    trainer.limit_val_batches = 0
    trainer.fit_loop.epoch_loop.max_steps = STEPS
    trainer.fit(module, datamodule=data)
    return clock.seconds / max(1, trainer.global_step - WARMUP)


def time_together(member: Member, size: int, ordinary: float) -> float:
    """Seconds of a step of a population, of copies of one member that is left as it is.

    Args:
        member: attached.
        size: how many copies.
        ordinary: seconds of an ordinary step, which tell when to stop measuring.
    """
    device = member.trainer.strategy.root_device
    population, numbers = stack([member] * size, device)
    one = next(iter(StackedBatches([member.data.train_dataloader()], device).epoch(0)))
    inputs, targets = (part.repeat(size, *[1] * (part.ndim - 1)) for part in one)
    budget = SHARE * ordinary * size * member.plan.horizon.steps
    population.step(inputs, targets, numbers.at(0))
    done, started = 0, _now(device)
    while done < TOGETHER and (not done or (_now(device) - started) * (done + 1) / done < budget):
        population.step(inputs, targets, numbers.at(0))
        done += 1
    return (_now(device) - started) / done


class _Clock(Callback):
    """Times the steps of a fit after the first few."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *given: Any) -> None:
        """Start after the warmup."""
        if trainer.global_step == self._warmup:
            self._started = _now(pl_module.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.seconds = _now(pl_module.device) - self._started


def _now(device: torch.device) -> float:
    """The time when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

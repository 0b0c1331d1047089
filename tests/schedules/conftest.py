"""Runs torch's own schedulers, the reference that lrflow's are held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

MakeScheduler = Callable[[Optimizer], LRScheduler]


def make_optimizer(*lrs: float) -> Optimizer:
    """An optimizer with a parameter group for each LR."""
    return SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs], lr=1.0)


def executed(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> np.ndarray:
    """The LRs of each group, [steps, groups], that `steps` optimizer steps are made with."""
    rates = []
    for _ in range(steps):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


@pytest.fixture(scope="session")
def optimizer() -> Callable[..., Optimizer]:
    """Makes an optimizer with a parameter group for each LR given."""
    return make_optimizer


@pytest.fixture(scope="session")
def run() -> Callable[[Optimizer, LRScheduler, int], np.ndarray]:
    """Makes steps, and gives the LRs they were made with."""
    return executed


@pytest.fixture(scope="session")
def torch_multipliers() -> Callable[[MakeScheduler, int], np.ndarray]:
    """The multipliers of a torch scheduler for each step of a run."""

    def multipliers(make: MakeScheduler, steps: int) -> np.ndarray:
        optimizer = make_optimizer(1.0)
        return executed(optimizer, make(optimizer), steps)[:, 0]

    return multipliers

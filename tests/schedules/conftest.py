"""Fixtures that run torch's schedulers, the reference for lrflow's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

MakeScheduler = Callable[[Optimizer], LRScheduler]


def make_optimizer(*lrs: float) -> Optimizer:
    """Return an optimizer with one parameter group per LR."""
    return SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs], lr=1.0)


def executed(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> np.ndarray:
    """Return the LRs of each group at each of `steps` optimizer steps, [steps, groups]."""
    rates = []
    for _ in range(steps):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


@pytest.fixture(scope="session")
def optimizer() -> Callable[..., Optimizer]:
    """Makes an optimizer with one parameter group per LR."""
    return make_optimizer


@pytest.fixture(scope="session")
def run() -> Callable[[Optimizer, LRScheduler, int], np.ndarray]:
    """Makes steps and returns their LRs."""
    return executed


@pytest.fixture(scope="session")
def torch_multipliers() -> Callable[[MakeScheduler, int], np.ndarray]:
    """The multipliers of a torch scheduler for each step of a run."""

    def multipliers(make: MakeScheduler, steps: int) -> np.ndarray:
        optimizer = make_optimizer(1.0)
        return executed(optimizer, make(optimizer), steps)[:, 0]

    return multipliers

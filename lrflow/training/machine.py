"""What the steps of a run take of its machine, their throughput and memory; and a warning if it is crowded."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lrflow.columns import PEAK, PER_SECOND, STEPS, VARYING
from lrflow.memory import peak_memory
from lrflow.schedules import Horizon
from lrflow.training.flops import FlopMeter
from lrflow.training.trainer import Trainer


def varies(column: str) -> bool:
    """Return whether equal runs may differ in a column of metrics.csv."""
    return column.startswith(VARYING)


def clock(horizon: Horizon, data: Any) -> dict[str, Callable[[int], float]]:
    """Return the counts of a run besides its steps, `samples` and `tokens`, where they are known.

    Args:
        horizon: length of the run; its samples are examples, or steps of an environment.
        data: data module of the run.

    Returns:
        By name a function from the number of steps that were made to the count.
    """
    samples: Callable[[int], float]
    if horizon.batch is not None:
        samples = horizon.batch.samples
    elif (each := horizon.samples_per_step) is not None:
        samples = partial(operator.mul, each)
    else:
        return {}
    tokens = getattr(data, "tokens_per_example", None)
    return {"samples": samples, **({"tokens": lambda steps: samples(steps) * tokens} if tokens else {})}


def machine_use(trainer: pl.Trainer, steps: int, seconds: float) -> dict[str, float]:
    """Return what some steps took, by column: nothing waits for the device.

    Args:
        trainer: of the run. Samples are known if its horizon counts them, tokens if its data do.
        steps: their number.
        seconds: their wall time, without validations and checkpoints.
    """
    found: dict[str, float] = {}
    if seconds > 0:
        found[STEPS] = steps / seconds
        if isinstance(trainer, Trainer) and trainer.horizon:
            last, counts = trainer.global_step, clock(trainer.horizon, getattr(trainer, "datamodule", None))
            first = max(last - steps, 0)
            found |= {PER_SECOND.format(name): (count(last) - count(first)) / seconds for name, count in counts.items()}
        for callback in getattr(trainer, "callbacks", ()):
            if isinstance(callback, FlopMeter):
                found |= callback.use(trainer, found[STEPS])
    device = trainer.strategy.root_device
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    if peak is not None:
        found[PEAK] = peak / 2**30
    return {column: float(f"{value:.6g}") for column, value in found.items()}


CROWDED = 0.2
"""Share of its time that a process waited for a processor from which on threads of PyTorch wait for each other."""

_SCHEDULE = Path("/proc/self/schedstat")  # of Linux: nanoseconds on a processor, and in the queue for one


def crowding(device: torch.device) -> str | None:
    """Return a warning if other processes keep the processors busy, and PyTorch trains on them with several threads.

    All threads wait for the slowest one in each operation, so a thread that another process keeps from running makes
    the others wait. Nothing is changed: results depend on the number of threads in their last digits.

    Args:
        device: of the run.

    Returns:
        The warning. None: there is one thread, the user chose their number, or the system does not tell how long this
        process waited for a processor.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads < 2 or {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        return None
    try:
        ran, waited = map(int, _SCHEDULE.read_text().split()[:2])
    except (OSError, ValueError):
        return None
    share = waited / max(ran + waited, 1)
    if share < CROWDED:
        return None
    return (
        f"other processes keep this machine busy: this one waited {share:.0%} of its time for a processor. PyTorch's "
        f"{threads} threads also wait for each other; one may be many times faster: OMP_NUM_THREADS=1 lrflow ..."
    )


def devices_of(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the name and the number of the devices of a run, and its precision."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "devices": trainer.world_size, "precision": str(trainer.precision)}

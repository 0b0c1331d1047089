"""sharpness.every: the callback that measures how close a run is to the edge of stability."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils._pytree import tree_leaves

from lrflow.config import Config
from lrflow.data import is_ordered
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Duration, Horizon
from lrflow.training import Signals
from lrflow.tuning.probe import SharpnessProbe


def check_probing(config: Config, data: pl.LightningDataModule, tell: Callable[[str], Any]) -> None:
    """See that what `sharpness` asks for can be measured in this run, and tell how it will be.

    Args:
        config: of the run.
        data: ready for training.
        tell: is given a line.

    Raises:
        ConfigError: the same batches cannot be had throughout, or nothing would keep what is measured.
    """
    asked = config.sharpness
    if asked.every is None:
        return
    problems = []
    loaders = data.train_dataloader()
    if own := [loader for loader in tree_leaves(loaders) if not is_ordered(loader)]:
        message = f"is measured on the same batches throughout, and {type(own[0]).__name__} brings an order of its own"
        problems.append(Problem("sharpness.every", message, asked.every, "leave it out"))
    if not config.logger.csv and config.logger.wandb is None and config.logger.tensorboard is None:
        problems.append(Problem("sharpness.every", "no logger would keep it", asked.every, "logger=csv"))
    if problems:
        raise ConfigError(problems)
    precision = str(config.trainer.precision)
    single = ", in single precision" if "mixed" in precision or precision in ("16", "bf16") else ""
    batches = "batch" if asked.batches == 1 else f"{asked.batches} batches"
    tell(f"sharpness: every {Duration.parse(asked.every)}, on the same {batches}{single}")


def probing(config: Config, horizon: Horizon, folder: Path, signals: Signals) -> list[pl.Callback]:
    """The callback that `sharpness` asks for, or none.

    Args:
        config: of the run.
        horizon: counts `sharpness.every` in steps.
        folder: of the run.
        signals: of the run.
    """
    asked = config.sharpness
    if asked.every is None:
        return []
    every = max(1, Duration.parse(asked.every).steps(horizon))
    return [SharpnessProbe(every, asked.batches, asked.products, config.seed, signals, folder)]

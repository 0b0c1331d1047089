"""The callback that logs the training speed of a run, from signals that are collected anyway."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.loggers.loggers import log_rows
from lrflow.training.block import Block
from lrflow.training.trainer import Trainer

COLUMNS = ("throughput/steps_per_second", "throughput/samples_per_second", "throughput/tokens_per_second")
"""Metrics that the callback logs: the second one if the samples per step are known, the third one for tokens."""


class Throughput(Callback):
    """Logs optimizer steps, samples and tokens per second of training, for all devices together.

    The speed is the mean over the steps since the last row, as many as `trainer.log_every` or fewer. The time of
    validations and checkpoints is left out, and nothing is measured besides what `Signals` collects. The callback has
    no state: a resumed run logs the speed that it has itself.
    """

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Log the speed of these steps, with the last of them."""
        seconds = float(block.seconds.sum())
        if seconds <= 0:
            return
        speed = len(block) / seconds
        horizon = trainer.horizon if isinstance(trainer, Trainer) else None
        samples = horizon.samples_per_step if horizon else None
        tokens = getattr(getattr(trainer, "datamodule", None), "tokens_per_example", None)
        values = [
            speed,
            *([speed * samples] if samples else []),
            *([speed * samples * tokens] if samples and tokens else []),
        ]
        row = [block.first + len(block) - 1, *(float(f"{value:.6g}") for value in values)]
        for logger in trainer.loggers:
            log_rows(logger, [*COLUMNS[: len(values)]], [row])

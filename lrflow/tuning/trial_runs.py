"""Trial runs of a range test, `find.confirm`: short runs of the whole schedule, whose losses confirm an LR."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from lrflow.config import Config
from lrflow.config.schemas.find import RangeFind
from lrflow.memory import freed_after
from lrflow.metric import LOSS, TRAIN_LOSS, is_validation
from lrflow.schedules import Horizon
from lrflow.training import Block, Signals
from lrflow.training.metric_reading import logged_metric
from lrflow.training.monitor import Monitor
from lrflow.training.trainer import SHORT_RUN_DONE
from lrflow.tuning.confirmation import Confirmation, confirm_lr
from lrflow.tuning.short_runs import short_fit, short_plan, whole_horizon

MIN_STEPS = 20  # of a trial run
FINAL_SHARE = 0.1  # share of a trial run whose training losses are averaged if there is no validation


def confirm_range(
    config: Config, find: RangeFind, start: float, folder: Path, report: Callable[[float, float, int], None]
) -> tuple[Confirmation, int]:
    """Confirm the LR of a range test by trial runs (`find.confirm`).

    How losses rank before the LR is annealed hardly shows how they rank after it. Each trial run therefore
    follows the run's whole schedule, scaled to its length.

    Args:
        config: of the run; each trial run has its seed, its order of the data and its initial model.
        find: the number and the length of the trial runs.
        start: the LR of the first one.
        folder: of the run.
        report: is called with the LR, the loss and the steps of each trial run.

    Returns:
        the confirmation, and the steps of all trial runs.

    Raises:
        EndedEarlyError: a trial run ended before its last step, by something other than a divergence.
    """
    whole = whole_horizon(config, folder)
    total = 0

    def loss(lr: float) -> float:
        nonlocal total
        value, steps = _trial_run(config, find, lr, whole, folder)
        total += steps
        report(lr, value, steps)
        return value

    sign = find.metric.sign
    confirmation = confirm_lr(start, lambda lr: sign * loss(lr), find.confirm_runs)
    return replace(confirmation, tried=tuple((lr, sign * value) for lr, value in confirmation.tried)), total


@freed_after()
def _trial_run(config: Config, find: RangeFind, lr: float, whole: Horizon, folder: Path) -> tuple[float, int]:
    """Make a trial run, and return its final metric and its steps.

    The metric is `find.monitor`; if that is the training loss and the run has a validation, it is the validation loss.
    """
    steps = min(whole.steps, max(MIN_STEPS, find.confirm_length.steps(whole)))
    recorder = LossRecorder()
    trainer, module, data = short_fit(
        config,
        config.seed,
        steps,
        folder,
        lambda groups: short_plan(config, groups, lr, whole, steps),
        lambda _, __, plan: [Signals(plan, config.trainer.log_every), recorder],
    )
    losses = recorder.losses
    if not np.isfinite(losses).all():
        return math.inf, len(losses)
    if find.monitor != TRAIN_LOSS and not is_validation(find.monitor):
        return logged_metric(trainer, find.monitor, key="find.monitor"), steps
    if is_overridden("val_dataloader", data) and is_overridden("validation_step", module):
        trainer.validate(module, datamodule=data, verbose=False)
        if is_validation(find.monitor):
            return logged_metric(trainer, find.monitor, key="find.monitor"), steps
        if (validation_loss := trainer.callback_metrics.get(LOSS)) is not None:
            return float(validation_loss), steps
    return float(np.mean(losses[-max(10, int(FINAL_SHARE * steps)) :])), steps


class LossRecorder(Monitor):
    """Records the loss of every step, and stops the run at the first that is not finite."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Add the losses of a block."""
        self.losses.extend(block.losses.tolist())
        if not np.isfinite(block.losses).all():
            trainer.stop(SHORT_RUN_DONE)  # type: ignore[attr-defined]

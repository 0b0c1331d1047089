"""find.confirm: settle what a range test found by a few trial runs under the run's own schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from lrflow.config import Config
from lrflow.config.also import settings_of
from lrflow.config.find import RangeFind
from lrflow.layers import Group
from lrflow.memory import freed_after
from lrflow.metric import LOSS, TRAIN_LOSS, is_validation
from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.tasks import build
from lrflow.tasks.find.brief import short_fit, whole_horizon
from lrflow.training import Block, Signals
from lrflow.training.branches import Branch, compile_branched
from lrflow.training.metrics import logged_metric
from lrflow.training.monitor import Monitor
from lrflow.training.trainer import SEEN_ENOUGH
from lrflow.tuning.confirm import Confirmed, confirm_lr

FEWEST = 20  # steps of a trial run
LAST = 0.1  # share of a run whose training losses are averaged where nothing is held out for validation


def confirm_range(
    config: Config, find: RangeFind, start: float, folder: Path, tell: Callable[[float, float, int], None]
) -> tuple[Confirmed, int]:
    """Make the trial runs.

    Args:
        config: of the run; each trial run has its seed, its data in the same order and the model it starts from.
        find: how many, and how long.
        start: the LR of the first ones.
        folder: of the run.
        tell: is told the LR, the loss and the steps of each.

    Returns:
        what they say, and the steps that they took.

    Raises:
        EndedEarlyError: something else ended one of them.
    """
    whole = whole_horizon(config, folder)
    made: list[int] = []

    def loss(lr: float) -> float:
        value, steps = _short_run(config, find, lr, whole, folder)
        made.append(steps)
        tell(lr, value, steps)
        return value

    sign = find.metric.sign
    found = confirm_lr(start, lambda lr: sign * loss(lr), find.confirm_runs)
    return replace(found, tried=tuple((lr, sign * value) for lr, value in found.tried)), sum(made)


def short_plan(config: Config, groups: Sequence[Group], lr: float, whole: Horizon, steps: int) -> Plan:
    """The plan of a trial run: that of the whole run, all durations scaled, at another peak.

    Args:
        config: whose schedule it follows.
        groups: at the run's own peak.
        lr: the peak; all groups keep their ratios.
        whole: how long the run is.
        steps: how long the short one is.
    """
    scaled = [replace(group, lr=group.lr * (lr / config.optimizer.lr)) for group in groups]
    # The whole schedule stretched over another length, from its first step on.
    branch = Branch(0, whole, "extend")
    horizon = Horizon(steps, whole.steps_per_epoch)
    return compile_branched(scaled, build.build_schedule(config), horizon, [branch], settings_of(config.optimizer))


class _Losses(Monitor):
    """Notes the loss of every step, and stops a run at the first that is not finite."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        self.losses.extend(block.losses.tolist())
        if not np.isfinite(block.losses).all():
            trainer.stop(SEEN_ENOUGH)  # type: ignore[attr-defined]


@freed_after()
def _short_run(config: Config, find: RangeFind, lr: float, whole: Horizon, folder: Path) -> tuple[float, int]:
    """What a trial run ends at, and its steps.

    That is the metric that the range test reads; where it reads the training loss and something is held out, the loss
    of validation.
    """
    steps = min(whole.steps, max(FEWEST, find.confirm_length.steps(whole)))
    noted = _Losses()
    trainer, module, data = short_fit(
        config,
        config.seed,
        steps,
        folder,
        lambda groups: short_plan(config, groups, lr, whole, steps),
        lambda _, __, plan: [Signals(plan, config.trainer.log_every), noted],
    )
    losses = noted.losses
    if not np.isfinite(losses).all():
        return math.inf, len(losses)
    if find.monitor != TRAIN_LOSS and not is_validation(find.monitor):
        return logged_metric(trainer, find.monitor, key="find.monitor"), steps
    if is_overridden("val_dataloader", data) and is_overridden("validation_step", module):
        trainer.validate(module, datamodule=data, verbose=False)
        if is_validation(find.monitor):
            return logged_metric(trainer, find.monitor, key="find.monitor"), steps
        if (found := trainer.callback_metrics.get(LOSS)) is not None:
            return float(found), steps
    return float(np.mean(losses[-max(10, int(LAST * steps)) :])), steps

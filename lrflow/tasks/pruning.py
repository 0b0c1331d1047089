"""Report the validations or short runs of a trial to its study, and end the run when the study prunes it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
from rich.console import Console

from lrflow.config import Config
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.health.monitors import build_monitors
from lrflow.plan import Plan, PlanScheduler
from lrflow.sweeps.pruners import Reporter, pruned_error, rungs
from lrflow.training import Signals
from lrflow.training.monitor import Watched
from lrflow.training.state import random_state, set_random_state
from lrflow.tuning.short_runs import short_fit, short_plan, whole_horizon
from lrflow.wording import counted

if TYPE_CHECKING:
    from lrflow.config.schemas.sweep import Trial


def pruning_callbacks(
    config: Config, folder: Path, trainer: pl.Trainer, resumed: bool, console: Console
) -> list[pl.Callback]:
    """Return the callbacks that prune a run; annealed rungs need none: their short runs are made at once.

    Only the first run of a trial is pruned, by comparison with the first runs of other trials.

    Args:
        config: the configuration of the run, with its `trial`.
        folder: the folder of the run.
        trainer: the trainer of the run.
        resumed: whether the run is resumed, in which case its short runs were made before.
        console: prints the results of the short runs.

    Raises:
        PrunedError: the study prunes the trial.
        ConfigError: the short runs need one device, and there are several.
        EndedEarlyError: a short run ended early, and the sweep does not rank trials that ended early.
        LrflowError: the study cannot be opened, or no validation logs the metric.
    """
    trial = config.trial
    assert trial is not None
    if trial.repeat:
        return []
    reporter = Reporter(trial) if trainer.is_global_zero else None
    if trial.pruning.rungs == "validations":
        return [ReportValidations(reporter, trial)]
    if trainer.world_size > 1:
        message = "short annealed runs take one device"
        raise ConfigError([Problem("sweep.pruning.rungs", message, "annealed", "sweep.pruning.rungs=validations")])
    assert reporter is not None
    if not resumed:
        before = random_state()
        _run_rungs(config, trial, folder, reporter, console)
        set_random_state(before)
    return []


class ReportValidations(pl.Callback):
    """Reports each validation to the study, and ends the run when the study prunes it.

    Args:
        reporter: the first process's; None in the others.
        trial: the trial that the run is.
    """

    def __init__(self, reporter: Reporter | None, trial: Trial) -> None:
        self._reporter, self._trial = reporter, trial

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the metric of a validation.

        Raises:
            PrunedError: the study prunes the trial.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = _metrics(trainer, self._trial.objective.name)
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        share = min(1.0, trainer.global_step / scheduler.plan.horizon.steps)
        pruned = self._reporter.report(metrics[self._trial.objective.name], share) if self._reporter else False
        if trainer.strategy.broadcast(pruned):
            raise pruned_error(self._trial, metrics, share)


def _run_rungs(config: Config, trial: Trial, folder: Path, reporter: Reporter, console: Console) -> None:
    """Make a short run per rung, each with the whole schedule compressed to its length, so that its LR is annealed.

    A comparison of runs in the middle of their schedule favours low learning rates, which gain less from the decay.
    """
    whole, name = whole_horizon(config, folder), trial.objective.name
    for share in rungs(trial.pruning):
        if reporter.has_reported(share):  # reported before the process died
            continue
        steps = max(1, round(share * whole.steps))

        def callbacks(trainer: pl.Trainer, data: pl.LightningDataModule, plan: Plan) -> list[pl.Callback]:
            signals = Signals(plan, config.trainer.log_every)
            run = Watched(trainer, data, plan, folder, config.seed, signals, config.optimizer.lr)
            return [signals, *build_monitors(config, run, only=["nonfinite"])]

        trainer, module, data = short_fit(
            config,
            config.seed,
            steps,
            folder,
            partial(short_plan, config, lr=config.optimizer.lr, whole=whole, steps=steps),
            callbacks,
            may_end_early=trial.rank_ended_early,
        )
        trainer.validate(module, datamodule=data, verbose=False)
        metrics = _metrics(trainer, name)
        made = trainer.global_step
        length = counted(steps, "step")
        length = f"{made} of {length}, ended early by {trainer.ended_by}" if made < steps else length
        console.print(f"rung of {length}: {name} {metrics[name]:.4g}", highlight=False)
        if reporter.report(metrics[name], share):
            raise pruned_error(trial, metrics, share)


def _metrics(trainer: pl.Trainer, name: str) -> dict[str, float]:
    """Return the metrics of a validation; the compared metric is NaN if it is not finite."""
    found = trainer.callback_metrics.get(name)
    if found is None:
        hint = did_you_mean(name, trainer.callback_metrics) or "the module logs none"
        raise LrflowError(f"sweep.metric = {name}: no validation logs this metric, which pruning compares; {hint}")
    metrics = {other: float(value) for other, value in trainer.callback_metrics.items()}
    return metrics if math.isfinite(metrics[name]) else {**metrics, name: math.nan}

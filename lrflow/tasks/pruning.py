"""A run as a trial of a sweep: it tells the study how it goes, and ends where the study gives it up."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
from rich.console import Console

from lrflow.config import Config
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.plan import Plan, PlanScheduler
from lrflow.sweeps.samplers import Reporter, pruned_error, rungs
from lrflow.training import Signals
from lrflow.training.monitor import Watched, build_monitors
from lrflow.training.state import random_state, set_random_state
from lrflow.tuning.short_runs import short_fit, short_plan, whole_horizon

if TYPE_CHECKING:
    from lrflow.config.sweep import Trial


def follow_trial(
    config: Config, folder: Path, trainer: pl.Trainer, resumed: bool, console: Console
) -> list[pl.Callback]:
    """What ends a run that its sweep gives up; where rungs are annealed, the short runs are made now.

    Args:
        config: of the run, with its `trial`.
        folder: of the run.
        trainer: of the run.
        resumed: whether the run goes on, so that its short runs are over.
        console: where their results are printed.

    Raises:
        PrunedError: the sweep gives the trial up.
        ConfigError: its short runs cannot be made.
        EndedEarlyError: something ended one of them, and the sweep does not rank trials that ended early.
        LrflowError: the study cannot be opened, or the metric is not one of validation.
    """
    trial = config.trial
    assert trial is not None
    reporter = Reporter(trial) if trainer.is_global_zero else None
    if trial.pruning.rungs == "validations":
        return [Reports(reporter, trial)]
    if trainer.world_size > 1:
        message = "short annealed runs take one device"
        raise ConfigError([Problem("sweep.pruning.rungs", message, "annealed", "sweep.pruning.rungs=validations")])
    assert reporter is not None
    if not resumed:
        before = random_state()
        _climb(config, trial, folder, reporter, console)
        set_random_state(before)
    return []


class Reports(pl.Callback):
    """Tells the study of each validation, and ends the run when it is given up.

    Args:
        reporter: of the first process; None in others.
        trial: which one the run is.
    """

    def __init__(self, reporter: Reporter | None, trial: Trial) -> None:
        self._reporter, self._trial = reporter, trial

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell, and ask.

        Raises:
            PrunedError: the sweep gives the trial up.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = _metrics(trainer, self._trial.objective.name)
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        share = min(1.0, trainer.global_step / scheduler.plan.horizon.steps)
        over = self._reporter.report(metrics[self._trial.objective.name], share) if self._reporter else False
        if trainer.strategy.broadcast(over):
            raise pruned_error(self._trial, metrics, share)


def _climb(config: Config, trial: Trial, folder: Path, reporter: Reporter, console: Console) -> None:
    """Make the short runs, each with the whole schedule on its length: what is compared has been annealed.

    Comparing runs in the midst of a schedule favours low learning rates, which have less left to gain from the decay.
    """
    whole, name = whole_horizon(config, folder), trial.objective.name
    for share in rungs(trial.pruning):
        if reporter.has_reported(share):  # before the process died
            continue
        steps = max(1, round(share * whole.steps))

        def watching(trainer: pl.Trainer, data: pl.LightningDataModule, plan: Plan) -> list[pl.Callback]:
            signals = Signals(plan, config.trainer.log_every)
            run = Watched(trainer, data, plan, folder, config.seed, signals)
            return [signals, *build_monitors(config, run, only=["nonfinite"])]

        trainer, module, data = short_fit(
            config,
            config.seed,
            steps,
            folder,
            partial(short_plan, config, lr=config.optimizer.lr, whole=whole, steps=steps),
            watching,
            may_end_early=trial.rank_ended_early,
        )
        trainer.validate(module, datamodule=data, verbose=False)
        metrics = _metrics(trainer, name)
        made = trainer.global_step
        length = f"{made} of {steps} steps, ended early by {trainer.ended_by}" if made < steps else f"{steps} steps"
        console.print(f"rung of {length}: {name} {metrics[name]:.4g}", highlight=False)
        if reporter.report(metrics[name], share):
            raise pruned_error(trial, metrics, share)


def _metrics(trainer: pl.Trainer, name: str) -> dict[str, float]:
    """The metrics of a validation, among them the one that trials are compared by."""
    found = trainer.callback_metrics.get(name)
    if found is None:
        hint = did_you_mean(name, trainer.callback_metrics) or "the module logs none"
        raise LrflowError(f"sweep.metric = {name}: no validation gives this metric, which trials are pruned by; {hint}")
    metrics = {other: float(value) for other, value in trainer.callback_metrics.items()}
    return metrics if math.isfinite(metrics[name]) else {**metrics, name: math.nan}

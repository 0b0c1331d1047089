"""task=train: train the model under its plan, then test it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden
from rich.console import Console

from lrflow import assemble, stops
from lrflow.callbacks import early_ends, time_limit
from lrflow.config import Config, locate
from lrflow.config.average_schema import averaging_of
from lrflow.config.checks import settings_of
from lrflow.config.compatibility import check_combination
from lrflow.config.targets import optimizer_traits
from lrflow.config.task_schema import Train
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError
from lrflow.health.advice import report_advice
from lrflow.health.monitors import build_monitors
from lrflow.health.recover import make_rollback
from lrflow.launch import rank
from lrflow.layers import Group, merge
from lrflow.loggers.loggers import close_loggers
from lrflow.outcome import Outcome, numbers_in
from lrflow.plan import Plan
from lrflow.runs import RunFolder
from lrflow.schedules import Horizon
from lrflow.tasks.evaluate import run_test
from lrflow.tasks.run_record import (
    CommitsRecord,
    conclude,
    failure_recorded,
    open_folder,
    open_loggers,
    own_environment,
    print_outcome,
    record_plan,
    record_start,
    requeued,
    restored_before_first_step,
)
from lrflow.training import Checkpoints, EvaluationWeights, Signals
from lrflow.training.branches import Branch, compile_branched, length_without_cooldown
from lrflow.training.callbacks import build_callbacks
from lrflow.training.configure_optimizers import supply_optimizer
from lrflow.training.cooldown import Cooldown
from lrflow.training.feedback_loop import FeedbackLoop, make_feedback_loop
from lrflow.training.freezing import freezing_callbacks
from lrflow.training.group_norms import measuring_intervals
from lrflow.training.guard import build_guard
from lrflow.training.interrupt import ended_together
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.loaders import check_intervals, count_horizon, set_up_data
from lrflow.training.module_optimizer import check_same_length
from lrflow.training.monitor import Watched
from lrflow.training.preprocessing import preprocessing_of, restore_preprocessing
from lrflow.training.progress import ProgressBar
from lrflow.training.resume import Resumed
from lrflow.training.resume_checks import compared_fingerprint
from lrflow.training.resume_source import branch_point, read_resumed
from lrflow.training.rollback import Rollback
from lrflow.training.trainer import Trainer, build_trainer, check_launched, validate_every
from lrflow.training.trainer_options import lightning_options, profiler_of

log = logging.getLogger("lrflow")


def run(config: Config) -> dict[str, Any]:
    """Train a run.

    Returns:
        The last metrics by name, and the run folder under `folder`.

    Raises:
        LrflowError: the run cannot start, diverged, was stopped by a signal, or could not be saved.
        EndedEarlyError: the run ended before the end of its plan; it was validated, tested and recorded.
    """
    ended = outcome(config).raise_if_unfinished()
    return {**ended.metrics, "folder": str(ended.folder)}


def outcome(config: Config) -> Outcome:
    """Train a run.

    Returns:
        How the run ended, as recorded in its folder.

    Raises:
        BaseException: the exception that ended the run; `Outcome.attached_to` returns the recorded outcome.
    """
    resumed = None
    if config.resume.source:
        resumed = read_resumed(config.resume.source, Path(config.output), locate)
        resumed = branch_point(config, resumed) if config.resume.horizon == "branch" else resumed
        resumed = resumed.redivided(config.data.effective_batch_size, config.trainer.accumulate_grad_batches)
        resumed.check_config(assemble.plain_config(config), optimizer_traits)
    folder = open_folder(config, resumed)
    loggers: list[Logger] = []
    with folder.locked() if rank() == 0 else nullcontext(), own_environment(folder):
        try:
            if rank() == 0 and not (resumed and resumed.is_of(folder)):
                folder.start_over()
            if config.finds_lr or (config.find.check and resumed is None):
                from lrflow.tasks.find import resolve_auto_lr  # here, since most runs do not need it

                config = resolve_auto_lr(config, folder, QuietConsole(quiet=rank() > 0))
            loggers = open_loggers(config, folder)
            return _train(config, folder, resumed, loggers)
        finally:
            close_loggers(loggers)
            if rank() == 0 and not folder.config.exists():  # the run never started
                with suppress(OSError):
                    folder.discard()


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first step.

    Args:
        trainer: the trainer with all callbacks.
        module: the module with its optimizer and plan.
        data: the data, in the order of the run.
        plan: the plan of the run.
        groups: the groups of the module's parameters.
        facts: fields of the summary, read when it is written.
        ending: whether only the end of a resumed run is left: its last validation, its test and its summary.
    """

    trainer: Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule
    plan: Plan
    groups: Sequence[Group]
    facts: Mapping[str, Any]
    ending: bool = False


def _train(config: Config, folder: RunFolder, resumed: Resumed | None, loggers: list[Logger]) -> Outcome:
    started = time.monotonic()
    console = QuietConsole(quiet=rank() > 0)
    ready = prepare(config, folder, resumed, loggers, console)
    if ready is None:
        assert resumed is not None
        summary = RunFolder.of(resumed.path).read_summary()
        steps = {"steps": resumed.step, "planned": resumed.step}
        metrics = numbers_in(summary.get("metrics", {}))
        seconds = numbers_in(summary).get("seconds", 0.0)
        return Outcome.finished(metrics, folder=folder.path, seconds=seconds, **steps).checked_finite(config.objectives)
    trainer, module, data, plan = ready.trainer, ready.module, ready.data, ready.plan
    assert isinstance(config.task, Train)

    def so_far() -> dict[str, Any]:
        """The fields of an outcome that do not depend on how the run ends."""
        steps, seconds = trainer.global_step, time.monotonic() - started
        return {"steps": steps, "planned": trainer.planned_steps, "seconds": seconds, "folder": folder.path}

    def so_far_and_metrics() -> dict[str, Any]:
        # The metrics as last collected: to reduce them now, a process that fails alone would wait for the others.
        return {"metrics": _values(trainer._logger_connector._callback_metrics), **so_far()}

    with (
        restored_before_first_step(folder, resumed, trainer, ready.ending),
        failure_recorded(folder, ready.facts, loggers, so_far_and_metrics),
        requeued(config),
        ended_together(trainer, f"continue with resume={folder.path}"),
    ):
        if trainer.is_global_zero:  # before fit, whose further processes read the config in the folder
            record_start(config, folder, plan, trainer, resumed, ready.facts.get("cooldown"), loggers)
            if resumed and ready.ending and not folder.config.exists():
                folder.commit()
            elif resumed:
                trainer.callbacks.insert(0, CommitsRecord(folder, resumed.step))  # type: ignore[attr-defined]
        if config.trial and config.trial.pruner != "none":
            from lrflow.tasks.pruning import pruning_callbacks  # here, since it imports Optuna

            trainer.callbacks += pruning_callbacks(config, folder.path, trainer, resumed is not None, console)  # type: ignore[attr-defined]
        with stops.deferred():
            trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None)
            stops.raise_if_requested()
        metrics, facts = _validated(trainer, module, data, resumed if ready.ending else None), dict(ready.facts)
        if used := run_test(config.task.test, folder, trainer, module, data, console.print):
            metrics |= _values(trainer.callback_metrics)
            facts["tested"] = used.record()
    if trainer.global_step < trainer.planned_steps:
        before = resumed.end["ended_by"] if ready.ending and resumed and resumed.end else None
        reason = trainer.ended_by or before or "the training loop ended"
        ended = Outcome.ended_early(reason, metrics=metrics, **so_far())
    else:
        ended = Outcome.finished(metrics, **so_far()).checked_finite(config.objectives)
    with stops.deferred():  # the run has ended, and that is recorded
        conclude(folder, ended, loggers, **facts)
        print_outcome(console, config, folder, ended, facts)
    return ended


def _validated(
    trainer: Trainer, module: pl.LightningModule, data: pl.LightningDataModule, resumed: Resumed | None
) -> dict[str, float]:
    """Return the metrics of a run after its last step; validate it first if that is still due.

    Args:
        trainer: of the run, which has been fit.
        module: the trained module.
        data: the data of the run.
        resumed: the run, if only its end is left; it was validated if its checkpoint says so.
    """
    ended_early = trainer.global_step < trainer.planned_steps
    if resumed is None:
        if ended_early and not trainer.is_last_step_validated:
            trainer.validate(module, datamodule=data, verbose=False)
        return _values(trainer.callback_metrics)
    if resumed.end is None:  # an earlier version saved it, after the last validation, whose row is in metrics.csv
        loggers, trainer.loggers = trainer.loggers, []
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.loggers = loggers
    elif ended_early and not resumed.end["validated"]:
        trainer.validate(module, datamodule=data, verbose=False)
    return {**(resumed.end["metrics"] if resumed.end else {}), **_values(trainer.callback_metrics)}


def prepare(
    config: Config,
    folder: RunFolder,
    resumed: Resumed | None,
    loggers: Sequence[Logger],
    console: Console,
    loaded: pl.LightningDataModule | None = None,
) -> Prepared | None:
    """Build all parts of a run and check them against each other, before its first step.

    Args:
        config: the configuration of the run.
        folder: the folder of the run.
        resumed: the run that is resumed; None: a new run.
        loggers: the loggers of the run.
        console: prints the plan and remarks.
        loaded: data that another run has set up, to be shared; None: the data is built and read.

    Returns:
        The run; None if it is resumed and has ended already.

    Raises:
        LrflowError: the run cannot start.
    """
    pl.seed_everything(config.seed, verbose=False)
    options = {**lightning_options(config), **profiler_of(config, folder.path)}
    trainer = build_trainer(options, folder.path, loggers, config.trainer.log_every)
    trainer.run_at_least(config.trainer.min_epochs, config.trainer.min_steps)
    check_launched(trainer)
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    data = loaded or assemble.build_data(config)
    if resumed and loaded is None:
        restore_preprocessing(data, resumed.preprocessing)
    position, overfit = resumed.position if resumed else None, config.trainer.overfit_batches
    set_up_data(data, trainer, config.seed, position, is_set_up=loaded is not None, overfit=overfit)
    horizon = count_horizon(config, data, trainer.world_size)
    stage = resumed.stage(horizon, assemble.plain_config(config)) if resumed else "under way"
    report = partial(console.print, soft_wrap=True, highlight=False, markup=False)
    if resumed and stage == "finished":
        report(f"{RunFolder.of(resumed.path).path} is finished: all {resumed.step} steps are done")
        return None
    trainer.run_for(horizon)  # before the module is built, since that may read the length of the run
    module = assemble.build_module(config, resumed is None, trainer, data, report=report)
    if resumed is None:
        assemble.check_metrics(config, module)
    assemble.check_validation(config, module, data)
    if is_overridden("configure_optimizers", module) and not config.optimizer.of_module:
        name = type(module).__name__
        report(f"{name}.configure_optimizers is ignored: lrflow supplies the optimizer and the schedule")
    groups = assemble.build_groups(config, module, trainer.world_size, report, data, counted := horizon)
    schedule, settings = assemble.build_schedule(config), settings_of(config.optimizer)
    feedback = assemble.build_feedback(config)
    branches: tuple[Branch, ...] = ()
    if resumed:
        resumed.check(module)
        ends = config.trainer
        limits = (ends.max_epochs, ends.max_steps, ends.accumulate_grad_batches, ends.max_samples)
        horizon = resumed.horizon(horizon, *limits)
        branches = resumed.branched(horizon, config.resume.horizon, groups, schedule, settings)
        check_same_length(config, counted, branches)
    length = length_without_cooldown(branches, horizon)  # of which all durations but those of the LR are shares
    recompile = partial(compile_branched, groups, schedule, settings=settings)
    with check_intervals(config, length):
        plan = recompile(horizon, branches)
        assemble.check_plan(config, plan)
        loop = make_feedback_loop(feedback, length, report) if feedback else None
    if resumed:
        resumed.check_plan(plan)
        console.print(resumed.describe(plan, assemble.plain_config(config), groups), soft_wrap=True, highlight=False)
    console.print(plan.table())
    if feedback:
        report(f"feedback: {feedback.describe()}; {feedback.lr_range}")
    elif resumed and resumed.feedback:
        report(resumed.feedback)
    if averaging := averaging_of(config.average, length):
        report(averaging.describe())
    report_advice(config, plan, length, report)
    guard, intervals = build_guard(config, module, groups), measuring_intervals(config, length)
    signals = Signals(plan, config.trainer.log_every, *intervals, config.signals.machine, guard)
    watched = Watched(trainer, data, plan, folder.path, config.seed, signals, length)
    monitors = build_monitors(config, watched)
    for line in [*filter(None, (monitor.describe() for monitor in monitors)), *early_ends(config, length)]:
        report(line)
    added = [*([guard] if guard else []), *build_callbacks(config, trainer, report), *time_limit(config)]
    trainer.callbacks += freezing_callbacks(config, module, plan, groups, resumed.step if resumed else 0)  # type: ignore[attr-defined]
    extra = {
        "plan": plan.to_dict(),
        "branches": [branch.as_dict() for branch in branches],
        "config": assemble.plain_config(config),
        "data": compared_fingerprint(data, resumed.data if resumed and trainer.is_global_zero else None),
        "preprocessing": preprocessing_of(data),
    }
    rollback = make_rollback(config, trainer, length, folder, resumed, report)
    checkpoints = _checkpoints(config, folder, length, groups, extra, resumed, rollback)
    facts: dict[str, Any] = {"feedback": loop.history} if loop else {}
    watching: list[pl.Callback] = [*filter(None, [rollback]), *([watched.findings, *monitors] if monitors else [])]
    facts |= {"findings": watched.findings.records} if monitors else {}
    facts |= (rollback.facts if rollback else {}) | ({"clip": guard.record} if guard else {})
    record = partial(record_plan, config, folder, devices=trainer.world_size)
    trainer.cooldown = Cooldown(plan, branches, length, recompile, extra, facts, record, report)
    trainer.callbacks += _callbacks(config, plan, length, loop, signals, watching, console, added, checkpoints)  # type: ignore[attr-defined]
    validate_every(trainer, config.trainer.val_every, length)
    trainer.run_for(horizon)
    if resumed and stage == "ending":
        trainer.fit_loop.epoch_loop.max_steps = resumed.step  # it may have ended early
    compiled = config.trainer.compile and not plan.scheduled_settings and not config.optimizer.of_module
    make = partial(assemble.make_optimizer, config, groups, compiled=compiled, module=module)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    configured = config.optimizer.node() | dict.fromkeys(resumed.scheduled_settings if resumed else ())
    changed = resumed.reconfigured(assemble.plain_config(config)) if resumed else ()
    supply_optimizer(module, plan, make, configured, compiled, routes, changed)
    return Prepared(trainer, module, data, plan, groups, facts, stage == "ending")


def _checkpoints(
    config: Config,
    folder: RunFolder,
    length: Horizon,
    groups: Sequence[Group],
    extra: dict[str, Any],
    resumed: Resumed | None,
    rollback: Rollback | None,
) -> Checkpoints:
    saving = config.trainer.checkpoint
    return Checkpoints(
        folder.checkpoints,
        length,
        saving.every,
        keep=saving.keep,
        metric=saving.metric,
        best=saving.best,
        name=saving.pattern,
        writes=folder.is_written,
        agree_every=config.trainer.log_every,
        groups=[[name for group in members for name, _ in group.parameters] for members in merge(groups)],
        routes=[members[0].route for members in merge(groups)],
        extra=extra,
        source=resumed.path if resumed else None,
        broken=resumed.broken if resumed and resumed.is_of(folder) else (),
        rollback=rollback,
    )


def _callbacks(
    config: Config,
    plan: Plan,
    length: Horizon,
    loop: FeedbackLoop | None,
    signals: Signals,
    monitors: Sequence[pl.Callback],
    console: Console,
    added: Sequence[pl.Callback],
    checkpoints: Checkpoints,
) -> list[pl.Callback]:
    """The callbacks of a run: weights to evaluate, progress bar, feedback, signals, monitors, `added`, checkpoints."""
    bar = config.trainer.progress
    progress = ProgressBar(plan.horizon.steps, console, bar=bar if isinstance(bar, bool) else console.is_terminal)
    # First, since all other callbacks of a validation need the weights that it evaluates. Feedback comes before the
    # signals, which record the LR of a step. Those of the group `callbacks` come after all that measure, and before
    # the checkpoints, which hold their state after the step.
    averaging = averaging_of(config.average, length)
    first = [UndisturbedByValidation(), EvaluationWeights(config.trainer.batch_norm_batches, config.seed, averaging)]
    return [*first, progress, *([loop] if loop else []), signals, *monitors, *added, checkpoints]


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}

"""Preparing a run: all its parts are built and checked against each other before its first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden
from rich.console import Console

from lrflow import assemble
from lrflow.callbacks import early_ends, time_limit
from lrflow.config import Config
from lrflow.config.batch_schedule import batch_unit
from lrflow.config.checks.compatibility import check_combination
from lrflow.config.checks.keys import settings_of
from lrflow.config.schemas.average import averaging_of
from lrflow.config.transfer import settled
from lrflow.errors import ConfigError
from lrflow.health.actions import make_adjustments, report_earlier_factors
from lrflow.health.advice import report_advice
from lrflow.health.monitors import build_monitors
from lrflow.health.recover import make_rollback
from lrflow.layers import Group, merge
from lrflow.plan import Plan
from lrflow.runs import RunFolder
from lrflow.schedules import Horizon
from lrflow.tasks.run_record import record_plan
from lrflow.training import Checkpoints, EvaluationWeights, Signals
from lrflow.training.batch_schedule import follow_batches
from lrflow.training.branches import Branch, compile_branched, length_without_cooldown
from lrflow.training.callbacks import build_callbacks
from lrflow.training.configure_optimizers import supply_optimizer
from lrflow.training.cooldown import Cooldown
from lrflow.training.feedback_loop import FeedbackLoop, make_feedback_loop
from lrflow.training.flops import flop_meter
from lrflow.training.freezing import freezing_callbacks
from lrflow.training.group_norms import measuring_intervals
from lrflow.training.guard import build_guard
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.lean_loop import check_loop
from lrflow.training.loaders import check_intervals, count_horizon, set_up_data
from lrflow.training.machine import crowding
from lrflow.training.module_optimizer import check_same_length
from lrflow.training.monitor import Watched
from lrflow.training.preprocessing import preprocessing_of, restore_preprocessing
from lrflow.training.progress import ProgressBar
from lrflow.training.resume import Resumed
from lrflow.training.resume_checks import compared_fingerprint
from lrflow.training.rollback import Rollback
from lrflow.training.trainer import Trainer, build_trainer, check_launched, validate_every
from lrflow.training.trainer_options import lightning_options, profiler_of

Report = Callable[[str], None]
"""Prints a line for the user."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first step.

    Args:
        config: of the run, whose LR is a number also if it is that of another run.
        trainer: the trainer with all callbacks.
        module: the module with its optimizer and plan.
        data: the data, in the order of the run.
        plan: the plan of the run.
        groups: the groups of the module's parameters.
        facts: fields of the summary, read when it is written.
        ending: whether only the end of a resumed run is left: its last validation, its test and its summary.
    """

    config: Config
    trainer: Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule
    plan: Plan
    groups: Sequence[Group]
    facts: Mapping[str, Any]
    ending: bool = False


@dataclass(frozen=True)
class _Planned:
    """The plan of a run, and what follows it.

    Args:
        plan: the plan.
        branches: the points at which the run got another length.
        length: of the run without its cooldown, of which all durations but those of the LR are shares.
        recompile: compiles the plan of another horizon and other branches.
        feedback: the callback of the feedback; None: there is none.
    """

    plan: Plan
    branches: tuple[Branch, ...]
    length: Horizon
    recompile: Callable[[Horizon, Sequence[Branch]], Plan]
    feedback: FeedbackLoop | None


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
    report = partial(console.print, soft_wrap=True, highlight=False, markup=False)
    trainer = _trainer(config, folder, loggers)
    data = _data(config, trainer, resumed, loaded)
    counted = count_horizon(config, data, trainer.world_size)
    stage = resumed.stage(counted, assemble.plain_config(config)) if resumed else "under way"
    if resumed and stage == "finished":
        done = "its only step is done" if resumed.step == 1 else f"all {resumed.step} steps are done"
        report(f"{RunFolder.of(resumed.path).path} is finished: {done}")
        return None
    config = settled(config, counted, report)
    trainer.run_for(counted)  # before the module is built, since that may read the length of the run
    module = _module(config, trainer, data, resumed, report)
    groups = assemble.build_groups(config, module, trainer.world_size, report, data, counted)
    planned = _planned(config, counted, module, groups, resumed, report, trainer.world_size)
    follow_batches(config, trainer, data, planned.plan.horizon)
    if line := check_loop(trainer, module):
        report(line)
    _report_plan(config, planned, groups, resumed, console, report)
    if warning := crowding(trainer.strategy.root_device):
        report(f"warning: {warning}")
    facts = _add_callbacks(config, folder, trainer, module, data, groups, planned, resumed, console, report)
    validate_every(trainer, config.trainer.val_every, planned.length)
    trainer.run_for(planned.plan.horizon)
    if resumed and stage == "ending":
        trainer.fit_loop.epoch_loop.max_steps = resumed.step  # it may have ended early
    _supply_optimizer(config, module, groups, planned.plan, resumed)
    return Prepared(config, trainer, module, data, planned.plan, groups, facts, stage == "ending")


def _trainer(config: Config, folder: RunFolder, loggers: Sequence[Logger]) -> Trainer:
    options = {**lightning_options(config), **profiler_of(config, folder.path)}
    trainer = build_trainer(options, folder.path, loggers, config.trainer.log_every)
    trainer.run_at_least(config.trainer.min_epochs, config.trainer.min_steps)
    check_launched(trainer)
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    return trainer


def _data(
    config: Config, trainer: Trainer, resumed: Resumed | None, loaded: pl.LightningDataModule | None
) -> pl.LightningDataModule:
    data = loaded or assemble.build_data(config)
    if resumed and loaded is None:
        restore_preprocessing(data, resumed.preprocessing)
    position, overfit = resumed.position if resumed else None, config.trainer.overfit_batches
    set_up_data(data, trainer, config.seed, position, is_set_up=loaded is not None, overfit=overfit)
    return data


def _module(
    config: Config, trainer: Trainer, data: pl.LightningDataModule, resumed: Resumed | None, report: Report
) -> pl.LightningModule:
    module = assemble.build_module(config, resumed is None, trainer, data, report=report)
    if resumed is None:
        assemble.check_metrics(config, module)
    assemble.check_validation(config, module, data)
    if is_overridden("configure_optimizers", module) and not config.optimizer.of_module:
        name = type(module).__name__
        report(f"{name}.configure_optimizers is ignored: lrflow supplies the optimizer and the schedule")
    return module


def _planned(
    config: Config,
    counted: Horizon,
    module: pl.LightningModule,
    groups: Sequence[Group],
    resumed: Resumed | None,
    report: Report,
    processes: int,
) -> _Planned:
    """Compile the plan.

    Args:
        config: of the run.
        counted: the length of a new run.
        module: of the run.
        groups: of its parameters.
        resumed: the run that is resumed; None: a new run.
        report: is called with one line per change of the feedback.
        processes: number of processes that train.

    Raises:
        ConfigError: the plan or an interval does not fit the length of the run, or a resumed run.
    """
    schedule, settings = assemble.build_schedule(config), settings_of(config.optimizer)
    scalars = config.planned_scalars
    feedback = assemble.build_feedback(config)
    horizon, branches = counted, tuple[Branch, ...]()
    if resumed:
        resumed.check(module)
        ends = config.trainer
        limits = (ends.max_epochs, ends.max_steps, ends.accumulate_grad_batches, ends.max_samples)
        horizon = resumed.horizon(counted, *limits, batch_unit(config, processes))
        branches = resumed.branched(horizon, config.resume.horizon, groups, schedule, settings, scalars)
        check_same_length(config, counted, branches)
    length = length_without_cooldown(branches, horizon)
    recompile = partial(compile_branched, groups, schedule, settings=settings, scalars=scalars)
    with check_intervals(config, length):
        plan = recompile(horizon, branches)
        assemble.check_plan(config, plan)
        loop = make_feedback_loop(feedback, length, report) if feedback else None
    if resumed:
        resumed.check_plan(plan, assemble.plain_config(config))
    return _Planned(plan, branches, length, recompile, loop)


def _report_plan(
    config: Config,
    planned: _Planned,
    groups: Sequence[Group],
    resumed: Resumed | None,
    console: Console,
    report: Report,
) -> None:
    """Print the plan, and what else decides about the LR and the weights."""
    plan = planned.plan
    if resumed:
        console.print(resumed.describe(plan, assemble.plain_config(config), groups), soft_wrap=True, highlight=False)
        report_earlier_factors(config, resumed, report)
    console.print(plan.table())
    if planned.feedback:
        feedback = planned.feedback.feedback
        report(f"feedback: {feedback.describe()}; {feedback.lr_range}")
    elif resumed and resumed.feedback:
        report(resumed.feedback)
    if averaging := averaging_of(config.average, planned.length, config.moving_scalars):
        report(averaging.describe())
    report_advice(config, plan, planned.length, report)


def _add_callbacks(
    config: Config,
    folder: RunFolder,
    trainer: Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    groups: Sequence[Group],
    planned: _Planned,
    resumed: Resumed | None,
    console: Console,
    report: Report,
) -> dict[str, Any]:
    """Add all callbacks to the trainer, and return the fields of the summary that they fill."""
    plan, branches, length = planned.plan, planned.branches, planned.length
    guard, intervals = build_guard(config, module, groups), measuring_intervals(config, length)
    signals = Signals(plan, config.trainer.log_every, *intervals, config.signals.machine, guard)
    watched = Watched(trainer, data, plan, folder.path, config.seed, signals, config.optimizer.lr, length)
    monitors = build_monitors(config, watched)
    for line in [*filter(None, (monitor.describe() for monitor in monitors)), *early_ends(config, length)]:
        report(line)
    added = [*filter(None, [guard, flop_meter(config)]), *build_callbacks(config, trainer, report), *time_limit(config)]
    trainer.callbacks += freezing_callbacks(config, module, plan, groups, resumed.step if resumed else 0)  # type: ignore[attr-defined]
    extra = {
        "plan": plan.to_dict(),
        "branches": [branch.as_dict() for branch in branches],
        "config": assemble.plain_config(config),
        "data": compared_fingerprint(data, resumed.data if resumed and trainer.is_global_zero else None),
        "preprocessing": preprocessing_of(data),
    }
    rollback = make_rollback(config, trainer, length, folder, resumed, report)
    adjustments = trainer.adjustments = make_adjustments(config, plan, branches, resumed, report)
    returns = rollback if isinstance(rollback, Rollback) else None
    checkpoints = _checkpoints(config, folder, length, groups, extra, resumed, returns)
    watching: list[pl.Callback] = [one for one in (rollback, adjustments) if one is not None and one is not returns]
    facts: dict[str, Any] = {"feedback": planned.feedback.history} if planned.feedback else {}
    if monitors:
        watching += [watched.findings, *monitors]
        facts["findings"] = watched.findings.records
    facts |= {name: value for one in (rollback, adjustments) if one is not None for name, value in one.facts.items()}
    facts |= {"clip": guard.record} if guard else {}
    record = partial(record_plan, config, folder, devices=trainer.world_size)
    trainer.cooldown = Cooldown(plan, branches, length, planned.recompile, extra, facts, record, report)
    measuring = [one for one in (returns, planned.feedback, signals) if one is not None]
    callbacks = _callbacks(config, plan, length, measuring, watching, console, added, checkpoints)
    trainer.callbacks += callbacks  # type: ignore[attr-defined]
    return facts


def _supply_optimizer(
    config: Config, module: pl.LightningModule, groups: Sequence[Group], plan: Plan, resumed: Resumed | None
) -> None:
    """Let the module make its optimizer with the scheduler of the plan."""
    compiled = config.trainer.compile and not plan.scheduled_settings and not config.optimizer.of_module
    make = partial(assemble.make_optimizer, config, groups, compiled=compiled, module=module)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    configured = config.optimizer.node() | dict.fromkeys(resumed.scheduled_settings if resumed else ())
    changed = resumed.reconfigured(assemble.plain_config(config)) if resumed else ()
    supply_optimizer(module, plan, make, configured, compiled, routes, changed)


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
    measuring: Sequence[pl.Callback],
    monitors: Sequence[pl.Callback],
    console: Console,
    added: Sequence[pl.Callback],
    checkpoints: Checkpoints,
) -> list[pl.Callback]:
    """The callbacks of a run: weights to evaluate, progress bar, `measuring`, monitors, `added`, checkpoints."""
    bar = config.trainer.progress
    draws = bar if isinstance(bar, bool) else console.is_terminal and not console.is_dumb_terminal
    progress = ProgressBar(plan.horizon.steps, console, draws, plan)
    # First, since all other callbacks of a validation need the weights that it evaluates. Rollbacks, which drop
    # gradients that are not finite, come before feedback and signals, which read them, and feedback before the signals,
    # which record the LR of a step. Those of the group `callbacks` come after all that measure, and before
    # the checkpoints, which hold their state after the step.
    averaging = averaging_of(config.average, length, config.moving_scalars)
    first = [UndisturbedByValidation(), EvaluationWeights(config.trainer.batch_norm_batches, config.seed, averaging)]
    return [*first, progress, *measuring, *monitors, *added, checkpoints]

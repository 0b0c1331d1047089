"""task=train: train the model under the plan, then test it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden
from rich.console import Console

from lrflow import assemble
from lrflow.config import Config, locate
from lrflow.config.checks import settings_of
from lrflow.config.compatibility import check_combination
from lrflow.config.run_schema import Train
from lrflow.config.targets import optimizer_traits
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError
from lrflow.layers import Group, merge
from lrflow.outcome import Outcome, numbers_in
from lrflow.plan import Plan
from lrflow.runs import RunFolder, find_checkpoint
from lrflow.tasks.evaluate import test_run
from lrflow.tasks.run_record import (
    conclude,
    failure_recorded,
    open_folder,
    open_loggers,
    own_environment,
    print_outcome,
    record_start,
)
from lrflow.training import Checkpoints, EvaluationWeights, Signals
from lrflow.training.branches import Branch, compile_branched
from lrflow.training.configure_optimizers import supply_optimizer
from lrflow.training.feedback_loop import FeedbackLoop, make_feedback_loop
from lrflow.training.interrupt import StopRequest
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.loaders import check_intervals, count_horizon, set_up_data
from lrflow.training.loggers import close_loggers
from lrflow.training.monitor import Monitor, Watched, build_monitors
from lrflow.training.progress import ProgressBar
from lrflow.training.resume import Resumed, branch_point
from lrflow.training.trainer import Trainer, build_trainer, rank, validate_every

log = logging.getLogger("lrflow")


def run(config: Config) -> dict[str, Any]:
    """Train as the configuration says.

    Returns:
        The last metrics by name, and the run folder under `folder`.

    Raises:
        LrflowError: the run cannot start, diverged, was asked to stop, or could not be saved.
        EndedEarlyError: something else than its plan ended it; it was validated, tested and recorded.
    """
    ended = outcome(config).raise_if_unfinished()
    return {**ended.metrics, "folder": str(ended.folder)}


def outcome(config: Config) -> Outcome:
    """Train as the configuration says.

    Returns:
        How the run ended, as it is recorded in its folder.

    Raises:
        BaseException: what ended it before its end; `Outcome.attached_to` has what is recorded of it.
    """
    resumed = None
    if config.resume.source:
        resumed = Resumed.read(find_checkpoint(config.resume.source, Path(config.output), "resume.from"), locate)
        resumed = branch_point(config, resumed) if config.resume.horizon == "branch" else resumed
        resumed.check_config(assemble.plain_config(config), optimizer_traits)
    folder = open_folder(config, resumed)
    loggers: list[Logger] = []
    with folder.locked() if rank() == 0 else nullcontext(), own_environment(folder):
        try:
            if config.finds_lr or (config.find.check and resumed is None):
                from lrflow.tasks.find import settle_lr  # which trains too, for a while

                config = settle_lr(config, folder, QuietConsole(quiet=rank() > 0))
            loggers = open_loggers(config, folder)
            return _train(config, folder, resumed, loggers)
        finally:
            close_loggers(loggers)
            if rank() == 0 and not folder.config.exists():  # the run never began
                with suppress(OSError):
                    folder.discard()


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first step.

    Args:
        trainer: with all that acts on the run.
        module: what is trained; supplied with its optimizer and plan.
        data: in the run's order.
        plan: what is executed.
        groups: of the module's parameters.
        facts: of the summary, as they stand when it is written.
    """

    trainer: Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule
    plan: Plan
    groups: Sequence[Group]
    facts: Mapping[str, Any]


def _train(config: Config, folder: RunFolder, resumed: Resumed | None, loggers: list[Logger]) -> Outcome:
    started = time.monotonic()
    console = QuietConsole(quiet=rank() > 0)
    ready = prepare(config, folder, resumed, loggers, console)
    if ready is None:
        assert resumed is not None
        summary = RunFolder.of(resumed.path).read_summary()
        steps = {"steps": resumed.step, "planned": resumed.step}
        metrics = numbers_in(summary.get("metrics", {}))
        seconds = float(summary.get("seconds") or 0.0)
        return Outcome.finished(metrics, folder=folder.path, seconds=seconds, **steps).checked_finite(config.objectives)
    trainer, module, data, plan = ready.trainer, ready.module, ready.data, ready.plan
    assert isinstance(config.task, Train)

    def so_far() -> dict[str, Any]:
        """The fields of an outcome that hold whenever the run ends."""
        steps, seconds = trainer.global_step, time.monotonic() - started
        return {"steps": steps, "planned": plan.horizon.steps, "seconds": seconds, "folder": folder.path}

    def so_far_and_metrics() -> dict[str, Any]:
        # As they were last collected: what processes compute together, one that fails alone would wait for.
        return {"metrics": _values(trainer._logger_connector._callback_metrics), **so_far()}

    with _former_kept(folder, resumed, trainer), failure_recorded(folder, ready.facts, loggers, so_far_and_metrics):
        if trainer.is_global_zero:  # before the processes that fit starts, which read the config there
            record_start(config, folder, plan, trainer.world_size, picture=config.trial is None)
        if config.trial and config.trial.pruner != "none":
            from lrflow.tasks.pruning import follow_trial  # which takes Optuna

            trainer.callbacks += follow_trial(config, folder.path, trainer, resumed is not None, console)  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None)
        if trainer.global_step < plan.horizon.steps and not trainer.is_last_step_validated:
            trainer.validate(module, datamodule=data, verbose=False)
        metrics = _values(trainer.callback_metrics)
        facts = dict(ready.facts)
        if used := test_run(config.task.test, folder, trainer, module, data, console.print):
            metrics |= _values(trainer.callback_metrics)
            facts["tested"] = used.record()
    if trainer.global_step < plan.horizon.steps:
        ended = Outcome.ended_early(trainer.ended_by or "the training loop ended", metrics=metrics, **so_far())
    else:
        ended = Outcome.finished(metrics, **so_far()).checked_finite(config.objectives)
    conclude(folder, ended, loggers, **facts)
    print_outcome(console, folder, ended)
    return ended


def prepare(
    config: Config,
    folder: RunFolder,
    resumed: Resumed | None,
    loggers: Sequence[Logger],
    console: Console,
    loaded: pl.LightningDataModule | None = None,
) -> Prepared | None:
    """Settle what is trained, on what, for how long and at which LR: all of it is known before the first step.

    Args:
        config: of the run.
        folder: where it writes.
        resumed: what goes on; None: a new run.
        loggers: of its metrics.
        console: where the plan is printed.
        loaded: its data, where another run has read them already; None: they are read.

    Returns:
        The run; None where there is nothing left of it to do.

    Raises:
        LrflowError: it cannot start.
    """
    pl.seed_everything(config.seed, verbose=False)
    trainer = build_trainer(assemble.lightning_options(config), folder.path, loggers, config.trainer.log_every)
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    data = loaded or assemble.build_data(config)
    set_up_data(data, trainer, config.seed, resumed.position if resumed else None, is_set_up=loaded is not None)
    horizon = count_horizon(config, data, trainer.world_size)
    if resumed and resumed.step >= horizon.steps and horizon.same_length(resumed.plan.horizon):
        finished = RunFolder.of(resumed.path)
        console.print(
            f"{finished.path} is finished: all {resumed.step} steps are done", soft_wrap=True, highlight=False
        )
        return None
    tell = partial(console.print, soft_wrap=True, highlight=False)
    trainer.run_for(horizon)  # which the module may ask for as it makes its parts
    module = assemble.build_module(config, resumed is None, trainer, data, report=tell)
    if resumed is None:
        assemble.check_metrics(config, module)
    if is_overridden("configure_optimizers", module):
        tell(f"{type(module).__name__}.configure_optimizers is ignored: lrflow supplies the optimizer and the schedule")
    groups = assemble.build_groups(config, module, trainer.world_size, tell, data)
    schedule, settings = assemble.build_schedule(config), settings_of(config.optimizer)
    feedback = assemble.build_feedback(config)
    branches: tuple[Branch, ...] = ()
    if resumed:
        resumed.check(module)
        ends = config.trainer
        horizon = resumed.horizon(
            horizon, ends.max_epochs, ends.max_steps, ends.accumulate_grad_batches, ends.max_samples
        )
        branches = resumed.branched(horizon, config.resume.horizon, groups, schedule, settings)
    with check_intervals(config, horizon):
        plan = compile_branched(groups, schedule, horizon, branches, settings)
        assemble.check_plan(config, plan)
        acting = make_feedback_loop(feedback, horizon, tell) if feedback else None
    if resumed:
        resumed.check_plan(plan)
        console.print(resumed.describe(plan, assemble.plain_config(config), groups), soft_wrap=True, highlight=False)
    console.print(plan.table())
    if feedback:
        tell(f"feedback: {feedback.describe()}; {feedback.lr_range}")
    elif resumed and resumed.feedback:
        tell(resumed.feedback)
    assemble.report_advice(config, plan, tell)
    signals = Signals(plan, config.trainer.log_every)
    watching = build_monitors(config, Watched(trainer, data, plan, folder.path, config.seed, signals))
    for line in filter(None, (monitor.describe() for monitor in watching)):
        tell(line)
    trainer.callbacks += assemble.freezing_callbacks(config, module, plan, groups, resumed.step if resumed else 0)  # type: ignore[attr-defined]
    trainer.callbacks += _callbacks(config, folder, plan, groups, branches, acting, signals, watching, console)  # type: ignore[attr-defined]
    validate_every(trainer, config.trainer.val_every, horizon)
    trainer.run_for(horizon)
    compiled = config.trainer.compile and not plan.scheduled_settings
    make = partial(assemble.make_optimizer, config, groups, compiled=compiled)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    held = config.optimizer.node() | dict.fromkeys(resumed.moved if resumed else ())
    changed = resumed.reconfigured(assemble.plain_config(config)) if resumed else ()
    supply_optimizer(module, plan, make, held, compiled, routes, changed)
    return Prepared(trainer, module, data, plan, groups, {"feedback": acting.history} if acting else {})


def _callbacks(
    config: Config,
    folder: RunFolder,
    plan: Plan,
    groups: Sequence[Group],
    branches: Sequence[Branch],
    acting: FeedbackLoop | None,
    signals: Signals,
    watching: Sequence[Monitor],
    console: Console,
) -> list[pl.Callback]:
    """What acts on the run besides Lightning: the progress bar, the signals, the monitors, the saving."""
    asked = config.trainer.progress
    progress = ProgressBar(plan.horizon.steps, console, bar=asked if isinstance(asked, bool) else console.is_terminal)
    saving = config.trainer.checkpoint
    checkpoints = Checkpoints(
        folder.checkpoints,
        plan.horizon,
        saving.every,
        keep=saving.keep,
        metric=saving.metric,
        stop=StopRequest(),
        agree_every=config.trainer.log_every,
        groups=[[name for group in members for name, _ in group.parameters] for members in merge(groups)],
        routes=[members[0].route for members in merge(groups)],
        extra={
            "plan": plan.to_dict(),
            "branches": [branch.as_dict() for branch in branches],
            "config": assemble.plain_config(config),
        },
    )
    # First, so that whatever else looks at a validation finds the weights that are validated; feedback before what
    # notes the LR of a step; saving comes last.
    first = [UndisturbedByValidation(), EvaluationWeights(config.trainer.batch_norm_batches, config.seed)]
    return [*first, progress, *([acting] if acting else []), signals, *watching, checkpoints]


def _former_kept(folder: RunFolder, resumed: Resumed | None, trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Keeps what the folder says of a run that goes on, until its first further step."""
    if resumed is None or not trainer.is_global_zero:
        return nullcontext()
    return folder.restored_unless(lambda: trainer.global_step > resumed.step)


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}

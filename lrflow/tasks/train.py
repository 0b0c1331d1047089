"""task=train: train the model under its plan, then test it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from lrflow import assemble, stops
from lrflow.config import Config, locate
from lrflow.config.schemas.task import Train
from lrflow.config.targets import optimizer_traits
from lrflow.display import QuietConsole
from lrflow.launch import rank
from lrflow.loggers.loggers import close_loggers
from lrflow.outcome import Outcome, numbers_in
from lrflow.runs import RunFolder
from lrflow.tasks.evaluate import run_test
from lrflow.tasks.prepare import Prepared, prepare
from lrflow.tasks.run_record import (
    CommitsRecord,
    conclude,
    failure_recorded,
    open_folder,
    open_loggers,
    own_environment,
    print_outcome,
    record_start,
    requeued,
    restored_before_first_step,
)
from lrflow.training.interrupt import ended_together
from lrflow.training.resume import Resumed
from lrflow.training.resume_source import branch_point, read_resumed
from lrflow.training.scalars import planned_of
from lrflow.training.trainer import Trainer
from lrflow.wording import joined

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


def _train(config: Config, folder: RunFolder, resumed: Resumed | None, loggers: list[Logger]) -> Outcome:
    started = time.monotonic()
    console = QuietConsole(quiet=rank() > 0)
    ready: Prepared | None = prepare(config, folder, resumed, loggers, console)
    if ready is None:
        assert resumed is not None
        summary = RunFolder.of(resumed.path).read_summary()
        steps = {"steps": resumed.step, "planned": resumed.step}
        metrics = numbers_in(summary.get("metrics", {}))
        seconds = numbers_in(summary).get("seconds", 0.0)
        return Outcome.finished(metrics, folder=folder.path, seconds=seconds, **steps).checked_finite(config.objectives)
    config, trainer, module, data, plan = ready.config, ready.trainer, ready.module, ready.data, ready.plan
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
            record_start(config, folder, plan, trainer, resumed, ready.facts.get("cooldown"), loggers, data)
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
        if (planned := planned_of(module)) and planned.unread and not ready.ending and trainer.is_global_zero:
            log.warning("nothing read %s: %s", *_unread(planned.unread))
        metrics, facts = _validated(trainer, module, data, resumed if ready.ending else None), dict(ready.facts)
        if used := run_test(config, config.task.test, folder, trainer, module, data, console.print):
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


def _unread(names: Sequence[str]) -> tuple[str, str]:
    """Return the keys of scalars that nothing has read, and what reads one."""
    keys = joined([f"scalars.{name}" for name in names], 7)
    return keys, f'self.planned("{names[0]}") in the module does, or sets names an attribute'


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


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}

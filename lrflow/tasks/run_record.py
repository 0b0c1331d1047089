"""Open the folder and loggers of a run, and record how the run starts and how it ends."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from rich.console import Console

from lrflow.config import Config, locate, save_config
from lrflow.config.composition.overrides import Override
from lrflow.config.failures import failure
from lrflow.config.secrets import shown_config
from lrflow.errors import LrflowError, StoppedError
from lrflow.health.advice import plan_extras
from lrflow.launch import rank
from lrflow.loggers.dashboard import About
from lrflow.loggers.loggers import build_loggers, close_loggers, describe_run
from lrflow.metric import Directions, guess_mode
from lrflow.outcome import Outcome
from lrflow.plan import Plan
from lrflow.plan.events import record_events
from lrflow.redaction import redact
from lrflow.remote import upload, url_of
from lrflow.runs import FINDINGS, PAGE, NoFolder, RunFolder
from lrflow.sweeps.folders import swept_keys
from lrflow.training.guard import describe_guard
from lrflow.training.hooks import switch_hooks
from lrflow.training.interrupt import requeue
from lrflow.training.machine import clock, devices_of
from lrflow.training.recovery import describe_recovery
from lrflow.training.resume import Resumed
from lrflow.training.resume_source import resumed_facts
from lrflow.wording import counted, short_names

log = logging.getLogger("lrflow")

LONGEST_NAME = 128
"""Most characters of a run's name on dashboards, which W&B takes."""


def open_folder(config: Config, resumed: Resumed | None, title: str | None = None) -> RunFolder:
    """Return the folder of the run: a new one, the sweep's, or that of the run that is resumed.

    A run resumed from its newest checkpoint continues in its folder. From an older checkpoint it branches into a new
    folder, so that nothing of the first run is overwritten.

    Args:
        config: the configuration of the run.
        resumed: the run that is resumed; None: a new run.
        title: the name of a new folder; None: `config.title`.
    """
    if config.trainer.fast_dev_run:
        return NoFolder(Path(config.output) / "fast_dev_run")
    if inherited := os.environ.get("LRFLOW_RUN_FOLDER"):
        return RunFolder(Path(inherited))
    if rank() > 0:
        return RunFolder(Path(config.output))  # a process of another node: it writes nothing
    if config.run_folder:
        return RunFolder.at(config.run_folder)
    if resumed and resumed.is_newest and config.resume.horizon != "branch":
        folder, url = RunFolder.of(resumed.path), url_of(Path(config.output))
        if url is not None and url_of(folder.path) is None:
            log.warning("%s: the run continues in its own folder, so it is not uploaded to %s", folder.path, url)
        return folder
    return RunFolder.create(Path(config.output), title or config.title)


def open_loggers(config: Config, folder: RunFolder) -> list[Logger]:
    """Return the loggers that the config of a run selects; if it writes no files, one that drops what it gets."""
    if not folder.is_written:
        return [DummyLogger()]
    return build_loggers(_loggers_of(config), folder.path, partial(about_run, config))


def _loggers_of(config: Config) -> dict[str, Any]:
    return {**config.logger.model_dump(), **config.logger.nodes()}


def log_task(
    config: Config, folder: RunFolder, about: About | None = None, facts: Mapping[str, float] | None = None
) -> None:
    """Show what a task that trains nothing wrote into its folder on the dashboards, as a run of its own.

    Args:
        config: the configuration of the task; metrics.csv is not written.
        folder: the folder of the task.
        about: what the dashboards show; None: the config.
        facts: numbers that the task found.
    """
    settings = {name: one for name, one in _loggers_of(config).items() if name != "csv"}
    if not folder.is_written or rank() > 0 or not any(settings.values()):
        return
    about = about or about_run(config)
    about = replace(about, name=f"{about.task} {about.name}"[:LONGEST_NAME], facts=facts or {})
    loggers = build_loggers(settings, folder.path, lambda: about)
    try:
        describe_run(loggers, folder.path)
    finally:
        close_loggers(loggers, Outcome.finished(folder=folder.path))


def log_exports(config: Config, folder: RunFolder) -> None:
    """Upload the exports of a run to its own run on W&B, if `logger.wandb.artifacts` of the run says so.

    Args:
        config: the configuration of the run.
        folder: the folder of the run.
    """
    settings = config.logger.wandb
    if settings is None or not settings.artifacts:
        return
    about = about_run(config)
    about = replace(about, options={**about.options, "task": "train"})  # the run stays what it was
    loggers: list[Any] = build_loggers({"wandb": settings.model_dump()}, folder.path, lambda: about)
    _ = loggers[0].experiment  # starts it
    close_loggers(loggers, Outcome.from_summary(folder.read_summary(), folder.path) or Outcome.finished())


def about_run(config: Config) -> About:
    """Return what dashboards show of a run besides its metrics, without secrets."""
    metric, place = config.trainer.checkpoint.metric, config.run_folder
    typed = {one.key: one.plain for one in map(Override.read, config.overrides) if not (one.of_hydra or one.deletes)}
    swept = swept_keys(place.parent) if place is not None else ()
    return About(
        name=_named(config.title, {key: value for key, value in redact(typed).items() if key in swept}),
        config=shown_config(config.plain(), OmegaConf.to_container(config.source, resolve=False)),
        options={group: option for group, option in config.choices.items() if option is not None},
        typed=redact(typed),
        group=place.parent.name if place is not None else None,
        metric=None if metric is None else metric.name,
        mode="min" if metric is None else config.directions(metric.name).mode,
        modes=partial(_mode_of, config.directions),
    )


def _named(title: str, swept: Mapping[str, str]) -> str:
    """Return the name of a run on dashboards: of a sweep's job, with the values that the sweep set."""
    values = zip(short_names([*swept]), swept.values(), strict=True)
    return " ".join([title, *(f"{key}={value}" for key, value in values)])[:LONGEST_NAME]


def _mode_of(directions: Directions, name: str) -> str | None:
    """Return the mode of a metric, unless it is neither given nor suggested by the name."""
    metric = directions(name)
    return None if metric.guessed and guess_mode(name) is None else metric.mode


@contextmanager
def own_environment(folder: RunFolder) -> Iterator[None]:
    """Pass the run folder to the processes that Lightning starts, and restore the environment variables afterwards.

    Lightning 2.6.6 mistakes variables that it set itself for a launcher's, so that without this the second job of a
    sweep would wait for ever for processes that nobody starts.
    """
    before = dict(os.environ)
    if rank() == 0:
        os.environ["LRFLOW_RUN_FOLDER"] = str(folder.path.resolve())
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def record_start(
    config: Config,
    folder: RunFolder,
    plan: Plan,
    trainer: pl.Trainer,
    resumed: Resumed | None = None,
    cooldown: Mapping[str, Any] | None = None,
    loggers: Sequence[Logger] = (),
    data: Any = None,
) -> None:
    """Write the config, the environment and the plan of a run into its folder.

    The record of a resumed run is staged: it replaces the earlier one at the first step (`RunFolder.commit`), so that a
    process that is killed before leaves the folder as it was.

    Args:
        config: the configuration of the run.
        folder: the folder of the run.
        plan: the plan of the run.
        trainer: of the run.
        resumed: the run that is resumed; None: a new run.
        cooldown: the record of the cooldown that the run is in; None: it is in none.
        loggers: the loggers of the run, which show the plan.
        data: the data module, which may know the tokens of an example.
    """
    if not folder.is_written:
        return
    _ = folder.run_id  # creates the id before the config: a folder with a config but no id is an earlier version's
    place = folder.stage() if resumed else folder
    save_config(config, place.config, folder.path)
    place.write_environment(**devices_of(trainer), **resumed_facts(resumed))
    record_plan(config, place, plan, {"cooldown": cooldown} if cooldown else {}, trainer.world_size)
    describe_run(loggers, place.path, clock(plan.horizon, data))
    upload(folder, must=True, starts=True)  # now, since a run that cannot be uploaded should not start


def record_plan(
    config: Config, folder: RunFolder, plan: Plan, more: Mapping[str, Any], devices: int | None = None
) -> None:
    """Write the plan of a run into its folder.

    A job of a sweep gets no picture of it: drawing takes longer than training a small model.

    Args:
        config: the configuration of the run.
        folder: the folder of the run.
        plan: the plan of the run.
        more: further content of plan.json: the record of its `cooldown`, if the run is in one.
        devices: the number of processes that train; None: that of the config.
    """
    if not folder.is_written:
        return
    length = replace(plan.horizon, steps=more["cooldown"]["planned"]) if "cooldown" in more else plan.horizon
    extras = {**plan_extras(config, plan, length, devices), **more}
    plan.write(folder.path, extras, picture=config.run_folder is None)


class CommitsRecord(pl.Callback):
    """Replaces the record in the folder of a resumed run by the staged one, once the run has made a step.

    Args:
        folder: the folder of the run.
        step: the number of steps that were made before.
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        self._folder, self._step, self._is_done = folder, step, False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Commit the record at the first step."""
        if not self._is_done and trainer.global_step > self._step:
            self._is_done = True
            self._folder.commit()
            switch_hooks(trainer, self, on_train_batch_end=False)


@contextmanager
def failure_recorded(
    folder: RunFolder,
    facts: Mapping[str, Any],
    loggers: list[Logger],
    so_far: Callable[[], Mapping[str, Any]] = dict,
) -> Iterator[None]:
    """Record how the run ended when the body raises.

    Args:
        folder: the folder of the run.
        facts: further fields of its summary, read when the body raises.
        loggers: the loggers of the run.
        so_far: returns the fields of the `Outcome` at that time.

    Raises:
        BaseException: the original exception, which Lightning may have turned into a SystemExit; the recorded outcome
            is attached to it.
    """
    try:
        yield
    except BaseException as error:
        cause = failure(error)
        outcome = Outcome.from_error(cause, **so_far())
        try:
            conclude(folder, outcome, loggers, **facts)
        except OSError as unwritten:  # such as a full disk; what ended the run is reported, not this
            log.error("%s: how the run ended could not be recorded: %s", folder.summary, unwritten.strerror)
        outcome.error_with_outcome()
        if cause is error:
            raise
        raise cause from cause.__cause__


def conclude(folder: RunFolder, outcome: Outcome, loggers: list[Logger], **facts: Any) -> None:
    """Record how the run ended, in its folder and on its dashboards. Only the first process writes.

    Args:
        folder: the folder of the run.
        outcome: how the run ended.
        loggers: the loggers of the run; they are closed.
        facts: fields of the summary besides the outcome.
    """
    try:
        if rank() == 0:
            folder.write_summary(outcome.summary(**facts))
            _record_events(folder, facts)
    finally:
        close_loggers(loggers, outcome)
        if rank() == 0:
            upload(folder)  # before the page, during which the time of the machine may be over
            if _write_page(folder):
                upload(folder)


def _record_events(folder: RunFolder, facts: Mapping[str, Any]) -> None:
    """Add rollbacks and adjustments of the LR to the record of the plan, if there were any."""
    rollbacks = [{"action": "rollback", **one} for one in facts.get("recoveries", ())]
    events = sorted([*rollbacks, *facts.get("adjustments", ())], key=lambda event: event["step"])
    if not events or not folder.plan.exists():
        return
    try:
        record_events(folder.plan, folder.metrics, events, locate)
    except (OSError, ValueError, LrflowError) as error:  # a full disk, or a user's own schedule that is gone
        log.warning("%s: the changes of the LR could not be added: %s", folder.plan, error)


def _write_page(folder: RunFolder) -> bool:
    """Write the page of a run, if it has one, and return whether it was written; that it cannot be is a warning."""
    try:
        if not folder.is_written or folder.present_config != folder.config:  # a resumed run that has made no step
            return False
        from lrflow.reports.run_page import wants_page, write_run_page  # here: jobs of sweeps do not need it

        if not wants_page(folder.path):
            return False
        write_run_page(folder.path)
    except Exception as error:  # whatever it is, the run has ended as it has
        reason = str(error).partition("\n")[0] or type(error).__name__
        log.warning("%s: the page of the run could not be written: %s", folder.path / PAGE, reason)
        return False
    return True


def print_outcome(
    console: Console, config: Config, folder: RunFolder, outcome: Outcome, facts: Mapping[str, Any]
) -> None:
    """Print the last metrics, what was clipped and left out, and the files in the folder."""
    metrics = "  ".join(f"[bold]{name}[/] {value:.4g}" for name, value in outcome.metrics.items())
    steps = counted(outcome.steps or 0, "step")
    console.print(f"\n{steps} in {outcome.seconds:.1f} s  {metrics}", soft_wrap=True)
    recovery = describe_recovery(facts.get("recovery"), outcome.steps or 0)
    for further in filter(None, [describe_guard(config, facts.get("clip")), recovery]):
        console.print(further, soft_wrap=True, highlight=False, markup=False)
    if not folder.is_written:
        return
    written = ["config.yaml", "plan.png", "metrics.csv", FINDINGS, "sharpness.png", "summary.json", PAGE]
    last = sorted(folder.checkpoints.glob("*.ckpt"))
    written += [f"checkpoints/{path.name}" for path in last]
    names = ", ".join(name for name in written if (folder.path / name).exists())
    console.print(f"{folder.path}/: {names}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def requeued(config: Config) -> Iterator[None]:
    """Let Slurm start the job again if SIGUSR1, its warning that the time is over, stops the run."""
    try:
        yield
    except StoppedError as error:
        asked = error.exit_code == 128 + signal.SIGUSR1 and config.resume.requeue is True
        if asked and rank() == 0 and "SLURM_JOB_ID" in os.environ:
            requeue()
        raise


def restored_before_first_step(
    folder: RunFolder, resumed: Resumed | None, trainer: pl.Trainer, ending: bool
) -> AbstractContextManager[None]:
    """Restore the record of a resumed run if it fails before its first step, unless only its end was left."""
    if resumed is None or not trainer.is_global_zero:
        return nullcontext()
    return folder.restored_unless(lambda: ending or trainer.global_step > resumed.step)

"""The loggers of a run: they are built here, get its description and its rows, and are closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger

from lrflow.config.targets import instantiate, takes
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.launch import rank
from lrflow.loggers.csv_file import CSVLogger
from lrflow.loggers.dashboard import About, Dashboard
from lrflow.loggers.failures import guard
from lrflow.loggers.wandb_access import resolve_mode
from lrflow.loggers.wandb_run import WandbRun, adopt_id_of_agent
from lrflow.outcome import Outcome
from lrflow.output import redact_messages_of_wandb
from lrflow.runs import RunFolder

log = logging.getLogger("lrflow")


def build_loggers(settings: Mapping[str, Any], folder: Path, about_run: Callable[[], About]) -> list[Logger]:
    """Return the loggers of the `logger` group.

    Args:
        settings: the group: `csv`, `wandb`, `tensorboard`, `mlflow`, `trackio`, `comet`, and nodes of others.
        folder: the run folder.
        about_run: returns what dashboards show of the run; called if there is one.

    Raises:
        ConfigError: a node builds no logger, or a dashboard refuses the run.
    """
    about = cache(about_run)
    loggers: list[Logger] = []
    if settings.get("csv"):
        loggers.append(CSVLogger(folder / "metrics.csv"))
    if settings.get("wandb") is not None:
        loggers.append(guard(_wandb(settings["wandb"], folder, about()), "wandb"))
    if settings.get("tensorboard") is not None:
        from lrflow.loggers.tensorboard import TensorBoardLogger  # here, since the package is optional

        loggers.append(guard(TensorBoardLogger(folder, about(), **settings["tensorboard"]), "tensorboard"))
    for name in ("mlflow", "trackio", "comet"):
        if settings.get(name) is not None and rank() == 0:
            loggers.append(_dashboard(name, settings[name], folder, about()))
    for name, node in settings.items():
        if isinstance(node, Mapping) and "_target_" in node:
            loggers.append(guard(_other(node, f"logger.{name}", folder), name))
    return loggers


def _wandb(settings: Mapping[str, Any], folder: Path, about: About) -> Logger:
    redact_messages_of_wandb()
    mode = resolve_mode(settings["mode"], folder) if rank() == 0 else "disabled"
    # A run folder is one run on the dashboard, even if it is resumed. Other ranks log nothing.
    place = RunFolder(folder)
    if rank() == 0:
        adopt_id_of_agent(place)
    return WandbRun(folder, place.run_id if rank() == 0 else None, about, settings, mode)


def _dashboard(name: str, settings: Mapping[str, Any], folder: Path, about: About) -> Dashboard:
    """Return a logger of lrflow's own for a dashboard; its module is imported here, since its package is optional."""
    identity = RunFolder(folder).run_id
    if name == "mlflow":
        from lrflow.loggers.mlflow import MLflowLogger

        return MLflowLogger(folder, identity, about, settings)
    if name == "trackio":
        from lrflow.loggers.trackio import TrackioLogger

        return TrackioLogger(folder, identity, about, settings)
    from lrflow.loggers.comet import CometLogger

    return CometLogger(folder, identity, about, settings)


def _other(node: Mapping[str, Any], key: str, folder: Path) -> Logger:
    """Return the logger of a node; one that takes a `save_dir` and has none in the config gets the run folder."""
    own = "save_dir" not in node and takes(node["_target_"], "save_dir")
    built = instantiate(dict(node), key, **({"save_dir": str(folder)} if own else {}))
    if not isinstance(built, Logger):
        kind = type(built).__name__
        raise ConfigError(
            [Problem(f"{key}._target_", f"builds {kind}, which is no Lightning logger", node["_target_"])]
        )
    return built


def log_rows(logger: Logger, columns: list[str], rows: list[list[Any]]) -> None:
    """Pass rows of `step` and one value per column, None for no value, to any Lightning logger."""
    if isinstance(logger, CSVLogger | Dashboard):
        logger.log_rows(columns, rows)
        return
    for step, *values in rows:
        named = zip(columns, values, strict=True)
        logger.log_metrics({name: value for name, value in named if value is not None}, step)
    if flush := getattr(logger, "flush", None):
        flush()


def describe_run(
    loggers: Sequence[Logger], folder: Path, clock: Mapping[str, Callable[[int], float]] | None = None
) -> None:
    """Start the run on its dashboards, before its first step, and show them its plan.

    Args:
        loggers: loggers of the run.
        folder: the folder that holds the record of the plan.
        clock: counts of the run besides its steps, such as `samples`, each a function of the number of steps made.
    """
    for logger in loggers:
        if isinstance(logger, Dashboard):
            logger.start()
        elif describe := getattr(logger, "describe", None):
            describe(folder, clock or {})


def drop_rows_from(trainer: pl.Trainer, step: int) -> None:
    """Delete the rows of `step` and later, which a resumed run repeats, and a run that rolled back replaces.

    TensorBoard marks them as deleted. Dashboards keep them; they get those of a rollback beside them, and no repeated
    ones.
    """
    for logger in trainer.loggers:
        if (drop := getattr(logger, "drop_from", None)) and rank() == 0:
            drop(step)


def close_loggers(loggers: list[Logger], outcome: Outcome | None = None) -> None:
    """Report the outcome of the run to its dashboards, and finish it there, so that a sweep's next job starts its own.

    Args:
        loggers: loggers of the run; the list is emptied.
        outcome: how the run ended; None: it never started.
    """
    while loggers:
        logger = loggers.pop()
        if rank() == 0 and not isinstance(logger, CSVLogger | DummyLogger):  # summary.json holds the outcome
            try:
                _close(logger, outcome)
            except Exception as error:  # a dashboard must not change how the run ends
                log.warning("%s: the outcome of the run could not be reported: %s", type(logger).__name__, error)
            if failures := getattr(logger, "failures", None):
                failures.conclude()


def abandon_loggers(loggers: list[Logger]) -> None:
    """Close loggers without reporting an outcome, because another run takes the place of this one.

    Args:
        loggers: loggers of the run; the list is emptied.
    """
    while loggers:
        logger = loggers.pop()
        if isinstance(logger, Dashboard):
            logger.failures.attempt(logger.discard, now=True)
        elif getattr(logger, "_experiment", None) is not None:
            logger.finalize("failed")


def _close(logger: Logger, outcome: Outcome | None) -> None:
    started = logger.has_begun if isinstance(logger, Dashboard) else getattr(logger, "_experiment", None) is not None
    if not started and (outcome is None or outcome.status == "finished"):
        return  # nothing was logged, and `logger.experiment` would start a run now
    outcome = outcome or Outcome("failed", "the run did not start", error=LrflowError("the run did not start"))
    try:
        if conclude := getattr(logger, "conclude", None):
            conclude(outcome)
    finally:
        if not isinstance(logger, Dashboard):
            _finish(logger, outcome)


def _finish(logger: Logger, outcome: Outcome) -> None:
    """End a run in a logger of Lightning's kind, so that the next job of a sweep starts its own."""
    experiment: Any = getattr(logger, "experiment", None)
    logger.finalize("success" if outcome.exit_code == 0 else "failed")
    if hasattr(experiment, "finish"):  # Weights & Biases
        experiment.summary.update({"status": outcome.status, "reason": outcome.reason})
        experiment.finish(exit_code=outcome.exit_code)

"""Where metrics go: metrics.csv in the run folder, Weights & Biases, TensorBoard."""

from __future__ import annotations

import csv
import errno
import io
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lrflow.errors import LrflowError
from lrflow.files import write_whole
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.training.trainer import rank

log = logging.getLogger("lrflow")


class CSVLogger(Logger):
    """Appends rows to one CSV file and survives a kill: what was flushed is there.

    Columns are `step` (0 is the first optimizer step), then one per metric in the order of their first
    appearance; a row leaves the columns empty that it says nothing about. A new metric rewrites the file once.
    Rows that cannot be written, as on a full disk, wait for the next ones; the run goes on.

    Args:
        path: the file; rows that stand there already are kept, as for a resumed run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._columns = ["step"]
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file), self._columns)
        self._columns_in_file = len(self._columns) if path.exists() else 0
        self._waiting: list[tuple[list[str], list[list[Any]]]] = []
        self._told = False

    @property
    def name(self) -> str:
        """What Lightning calls this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Lightning asks for one; a run folder has a single record."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration stands in the run folder as a whole."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        self.log_rows(list(metrics), [[step, *metrics.values()]])

    @rank_zero_only
    def log_rows(self, columns: list[str], rows: Iterable[list[Any]]) -> None:
        """Append rows of `step` and one value a column, and flush them to the file."""
        self._columns += [column for column in columns if column not in self._columns]
        self._waiting.append((["step", *columns], list(rows)))
        try:
            self._append()
        except OSError as error:
            if not self._told:
                log.warning("%s: could not be written: %s; it is tried again", self.path, error.strerror)
            self._told = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Say what could not be written to the end."""
        if count := sum(len(rows) for _, rows in self._waiting):
            log.error("%s: the last %d rows could not be written", self.path, count)

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Forget the rows of `step` and later, and a torn last line: a run resumed there writes them again."""
        if self.path.exists():
            self._rewrite(before=step)

    def _append(self) -> None:
        if self._columns_in_file < len(self._columns):
            self._rewrite()
        text = io.StringIO(newline="")
        for columns, rows in self._waiting:
            place = [self._columns.index(column) for column in columns]
            whole = place == list(range(len(self._columns)))
            csv.writer(text).writerows(rows if whole else [_spread(row, place, len(self._columns)) for row in rows])
        data = text.getvalue().encode()
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(data) < len(data):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._waiting.clear()

    def _rewrite(self, before: int | None = None) -> None:
        rows: list[list[str]] = []
        if self.path.exists():
            whole, newline, _torn = self.path.read_bytes().decode(errors="replace").rpartition("\n")
            rows = list(csv.reader(io.StringIO(whole + newline, newline="")))[1:]
        if before is not None:
            rows = [row for row in rows if not (row and row[0].isdigit() and int(row[0]) >= before)]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self._columns)
        writer.writerows(row + [""] * (len(self._columns) - len(row)) for row in rows)
        write_whole(self.path, text.getvalue())
        self._columns_in_file = len(self._columns)


def _spread(row: list[Any], place: list[int], width: int) -> list[Any]:
    spread: list[Any] = [""] * width
    for index, value in zip(place, row, strict=True):
        spread[index] = value
    return spread


def log_rows(logger: Logger, columns: list[str], rows: list[list[Any]]) -> None:
    """Hand rows of `step` and one value a column to any Lightning logger."""
    if isinstance(logger, CSVLogger):
        logger.log_rows(columns, rows)
        return
    for step, *values in rows:
        logger.log_metrics(dict(zip(columns, values, strict=True)), step)


def build_loggers(settings: Mapping[str, Any], folder: Path, name: str, config: Mapping[str, Any]) -> list[Logger]:
    """The loggers that the `logger` group asks for.

    Args:
        settings: the group: `csv`, `wandb`, `tensorboard`.
        folder: the run folder.
        name: what the run is called on dashboards.
        config: the configuration without secrets, for the dashboards' hyperparameter tables.
    """
    loggers: list[Logger] = []
    if settings.get("csv"):
        loggers.append(CSVLogger(folder / "metrics.csv"))
    if settings.get("wandb") is not None:
        loggers.append(_wandb(settings["wandb"], folder, name, config))
    if settings.get("tensorboard") is not None:
        from pytorch_lightning.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", **settings["tensorboard"]))
    return loggers


def _wandb(settings: Mapping[str, Any], folder: Path, name: str, config: Mapping[str, Any]) -> Logger:
    from pytorch_lightning.loggers import WandbLogger

    mode = settings["mode"]
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or "auto"
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    options = {key: value for key, value in settings.items() if key != "mode" and value is not None}
    # One run folder is one run on the dashboard, however often it is resumed. Other ranks report nothing.
    identity = RunFolder(folder).run_id if rank() == 0 else None
    return WandbLogger(
        name=name, save_dir=folder, id=identity, resume="allow", mode=mode, config=dict(config), **options
    )


def close_loggers(loggers: list[Logger], outcome: Outcome | None = None) -> None:
    """Report how the run ended to its dashboards, and end it there, so that a sweep's next job begins its own.

    Args:
        loggers: of the run; emptied.
        outcome: how it ended; None: it never began.
    """
    while loggers:
        logger = loggers.pop()
        if rank() == 0 and not isinstance(logger, CSVLogger):  # summary.json lies beside the CSV file
            try:
                _close(logger, outcome)
            except Exception as error:  # the run itself ended as it did
                log.warning("%s was not told how the run ended: %s", type(logger).__name__, error)


def abandon_loggers(loggers: list[Logger]) -> None:
    """Close loggers without a report of how the run ended: another one takes its place.

    Args:
        loggers: of the run; emptied.
    """
    while loggers:
        logger = loggers.pop()
        if getattr(logger, "_experiment", None) is not None:
            logger.finalize("failed")


def _close(logger: Logger, outcome: Outcome | None) -> None:
    begun = getattr(logger, "_experiment", None) is not None
    if not begun and (outcome is None or outcome.status == "finished"):
        return  # nothing was reported, and `logger.experiment` would begin a run now
    outcome = outcome or Outcome("failed", "the run did not begin", error=LrflowError("the run did not begin"))
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_text"):  # TensorBoard, which knows of no status
        experiment.add_text("outcome", f"{outcome.status} {outcome.reason}".strip(), outcome.steps)
    logger.finalize("success" if outcome.exit_code == 0 else "failed")
    if hasattr(experiment, "finish"):  # Weights & Biases
        experiment.summary.update({"status": outcome.status, "reason": outcome.reason})
        experiment.finish(exit_code=outcome.exit_code)


def drop_rows_from(trainer: pl.Trainer, step: int) -> None:
    """Forget what a killed run wrote after the checkpoint that it is resumed from."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.drop_from(step)

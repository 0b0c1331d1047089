"""Where metrics go: metrics.csv in the run folder, Weights & Biases, TensorBoard."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lrflow.training.ranks import rank


class CSVLogger(Logger):
    """Appends rows to one CSV file and survives a kill: what was flushed is there.

    Columns are `step` (0 is the first optimizer step), then one per metric in the order of their first
    appearance; a row leaves the columns empty that it says nothing about. A new metric rewrites the file once.

    Args:
        path: the file; rows that stand there already are kept, as for a resumed run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._columns = ["step"]
        if path.exists():
            with path.open(newline="") as file:
                self._columns = next(csv.reader(file), self._columns)

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
        if new := [column for column in columns if column not in self._columns]:
            self._columns += new
            self._rewrite()
        place = [self._columns.index(column) for column in ("step", *columns)]
        width = len(self._columns)
        if place != list(range(width)):
            rows = [_spread(row, place, width) for row in rows]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows)

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Forget the rows of `step` and later, and a torn last line: a run resumed there writes them again."""
        if self.path.exists():
            self._rewrite(before=step)

    def _rewrite(self, before: int | None = None) -> None:
        rows: list[list[str]] = []
        if self.path.exists():
            whole, newline, _torn = self.path.read_text().rpartition("\n")
            rows = list(csv.reader((whole + newline).splitlines()))[1:]
        if before is not None:
            rows = [row for row in rows if int(row[0]) < before]
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self._columns)
            writer.writerows(row + [""] * (len(self._columns) - len(row)) for row in rows)
        part.replace(self.path)


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
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    options = {key: value for key, value in settings.items() if key != "mode" and value is not None}
    # One run folder is one run on the dashboard, however often it is resumed.
    identity = hashlib.sha256(folder.name.encode()).hexdigest()[:12]
    return WandbLogger(
        name=name, save_dir=folder, id=identity, resume="allow", mode=mode, config=dict(config), **options
    )


def close_loggers(loggers: Iterable[Logger]) -> None:
    """End the runs on dashboards, so that the next job of a sweep begins its own."""
    for logger in loggers:
        # Not `logger.experiment`, which would begin one now.
        finish = getattr(getattr(logger, "_experiment", None), "finish", None)
        if rank() == 0 and finish is not None:
            finish()


def drop_rows_from(trainer: pl.Trainer, step: int) -> None:
    """Forget what a killed run wrote after the checkpoint that it is resumed from."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.drop_from(step)

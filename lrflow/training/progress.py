"""Progress output of a run: a progress bar on a terminal, one line per validation elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lrflow.plan import Plan
from lrflow.training.block import Block
from lrflow.training.branches import FollowsPlan
from lrflow.training.metric_reading import progress_metrics
from lrflow.training.monitor import Monitor


class ProgressBar(Monitor, FollowsPlan):
    """Shows step, loss, LR, the latest validation metrics and metrics logged with `prog_bar=True`.

    It receives blocks of `Signals`, so steps in between cost nothing.

    Args:
        steps: length of the run in optimizer steps.
        console: the console to write to.
        bar: True draws a progress bar; False writes one line per validation, for log files.
    """

    def __init__(self, steps: int, console: Console, bar: bool) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._loss: float | None = None  # None: this process has made no step yet
        self._rates: list[float] = []
        self._values: dict[str, float] = {}  # of the last validation
        self._metrics = ""
        if bar:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=steps, state="")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at the current step of a resumed run."""
        if self._bar and trainer.is_global_zero:
            self._bar.update(self._task, completed=trainer.global_step)
            self._bar.start()

    def follow(self, plan: Plan) -> None:
        """Show the length of another plan."""
        if self._bar:
            self._bar.update(self._task, total=plan.horizon.steps)

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Show the latest signals."""
        if len(block.losses):
            self._loss = float(block.losses[-1])
        self._rates = sorted({float(rate) for rate in block.effective[-1]})
        if self._bar:
            self._metrics = _format_metrics(self._values | trainer.progress_bar_metrics)
            self._bar.update(self._task, completed=block.first + len(block), state=self._state())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the metrics of the validation, and those that the module logs with `prog_bar=True`."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._values = progress_metrics(trainer)
        self._metrics = _format_metrics(self._values)
        if self._bar:
            self._bar.update(self._task, state=self._state())
        elif trainer.training or trainer.validating:
            self._console.print(f"{_epoch(trainer)}step {trainer.global_step}  {self._state()}", soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the bar."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the bar, which frees the terminal."""
        self._stop()

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()

    def _state(self) -> str:
        ends = dict.fromkeys([*self._rates[:1], *self._rates[-1:]])
        rates = f"lr {'..'.join(f'{rate:.3g}' for rate in ends)}" if ends else ""
        loss = "" if self._loss is None else f"loss {self._loss:.4g}"
        return "  ".join(filter(None, (loss, rates, self._metrics)))


def _epoch(trainer: pl.Trainer) -> str:
    """Return the epoch, with the number of epochs if it is exact; empty if the length of an epoch is unknown."""
    if not (trainer.max_epochs or 0) > 0:
        return ""
    total = "" if math.isinf(trainer.num_training_batches) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + 1}{total}  "


def _format_metrics(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())

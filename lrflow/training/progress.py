"""Progress output of a run: a progress bar on a terminal, one line per validation elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from lrflow.plan import Plan
from lrflow.training.block import Block
from lrflow.training.branches import FollowsPlan
from lrflow.training.metric_reading import progress_metrics
from lrflow.training.monitor import Monitor
from lrflow.wording import sparkline

SPARKS = 16
"""Characters of the sparkline of the plan."""

WIDE = 100
"""Least characters of a line that has room for a bar beside the sparkline."""


class PlanColumn(ProgressColumn):
    """The LR over the run as a sparkline, the highest of all groups at each place; the present place is marked."""

    sparks = ""

    def follow(self, plan: Plan) -> None:
        """Draw a plan."""
        count = min(SPARKS, plan.horizon.steps)
        steps = [at * plan.horizon.steps // count for at in range(count)]
        self.sparks = sparkline([float(rates.max()) if len(rates) else 0.0 for rates in plan.lr(steps)])

    def render(self, task: Task) -> Text:
        """Return the sparkline of a task."""
        text = Text(self.sparks, "dim")
        if self.sparks and task.total:
            here = min(int(task.completed / task.total * len(self.sparks)), len(self.sparks) - 1)
            text.stylize("reverse not dim", here, here + 1)
        return text


class SpeedColumn(ProgressColumn):
    """The steps per second."""

    def render(self, task: Task) -> Text:
        """Return the speed of a task; empty before it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} it/s" if speed >= 100 else f"{speed:.3g} it/s")


class ProgressBar(Monitor, FollowsPlan):
    """Shows step, plan, epoch, loss, LR, metrics, those logged with `prog_bar=True`, speed and time left.

    It shows the batch too, if that changes over the run.

    It receives blocks of `Signals`, so steps in between cost nothing.

    Args:
        steps: length of the run in optimizer steps.
        console: the console to write to.
        bar: True draws a progress bar; False writes one line per validation, for log files.
        plan: the plan of the run, which the bar shows; None: it shows none.
    """

    def __init__(self, steps: int, console: Console, bar: bool, plan: Plan | None = None) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._loss: float | None = None  # None: this process has made no step yet
        self._rates: list[float] = []
        self._batch = ""  # the size of the last step's batch, where it changes over the run
        self._values: dict[str, float] = {}  # of the last validation
        self._metrics = ""
        self._epoch = ""
        self._plan = PlanColumn(Column(no_wrap=True, min_width=SPARKS if plan else None))
        if bar:
            wide = console.width >= WIDE
            state = Column(no_wrap=True, overflow="crop")
            self._bar = Progress(
                *([TextColumn("{task.description}"), BarColumn(bar_width=10 if plan else None)] if wide else []),
                MofNCompleteColumn(),
                self._plan,
                TextColumn("{task.fields[state]}", table_column=state),
                SpeedColumn(),
                TimeRemainingColumn(compact=True),
                console=console,
            )
            if plan is not None:
                self._plan.follow(plan)
            self._task = self._bar.add_task("training", total=steps, state="")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at the current step of a resumed run."""
        if self._bar and trainer.is_global_zero:
            self._bar.update(self._task, completed=trainer.global_step)
            self._bar.start()

    def follow(self, plan: Plan) -> None:
        """Show the length and the LRs of another plan."""
        if self._bar:
            self._plan.follow(plan)
            self._bar.update(self._task, total=plan.horizon.steps)

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Show the latest signals."""
        if len(block.losses):
            self._loss = float(block.losses[-1])
        self._rates = sorted({float(rate) for rate in block.effective[-1]})
        horizon = getattr(trainer, "horizon", None)
        if horizon is not None and horizon.batch is not None:
            self._batch = f"batch {horizon.batch.size(block.first + len(block) - 1):,}"
        if self._bar:
            self._epoch = _epoch(trainer)
            self._metrics = _format_metrics(self._values | trainer.progress_bar_metrics)
            self._bar.update(self._task, completed=block.first + len(block), state=self._line())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the metrics of the validation, and those that the module logs with `prog_bar=True`."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._values = progress_metrics(trainer)
        self._metrics = _format_metrics(self._values)
        if self._bar:
            self._bar.update(self._task, state=self._line())
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

    def _line(self) -> str:
        """Return the state of the run, without the last parts for which the other columns leave no room."""
        assert self._bar is not None
        steps = 2 * len(str(self._bar.tasks[0].total or 0)) + 2
        others = steps + (len(self._plan.sparks) + 1) + len("1,234 it/s 00:00 ")
        others += len("training ") + 11 if self._console.width >= WIDE else 0
        parts = (self._epoch + self._state()).split("  ")
        while parts and len("  ".join(parts)) > self._console.width - others:
            parts.pop()
        return "  ".join(parts)

    def _state(self) -> str:
        ends = dict.fromkeys([*self._rates[:1], *self._rates[-1:]])
        rates = f"lr {'..'.join(f'{rate:.3g}' for rate in ends)}" if ends else ""
        loss = "" if self._loss is None else f"loss {self._loss:.4g}"
        return "  ".join(filter(None, (loss, rates, self._batch, self._metrics)))


def _epoch(trainer: pl.Trainer) -> str:
    """Return the epoch, with the number of epochs if it is exact; empty if the length of an epoch is unknown."""
    if not (trainer.max_epochs or 0) > 0:
        return ""
    total = "" if math.isinf(trainer.num_training_batches) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + 1}{total}  "


def _format_metrics(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())

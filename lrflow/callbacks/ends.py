"""The end of a run by the clock, `trainer.max_time`, and a line before the run on what else may end it early."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.callbacks.early_stopping import EarlyStopping
from lrflow.config import Config
from lrflow.config.schemas import callbacks as callback_schema
from lrflow.config.schemas.callbacks import End
from lrflow.config.schemas.types import seconds_of
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Duration, Horizon
from lrflow.training.cooldown import end_run
from lrflow.wording import counted

FIRST_STEPS = 20
"""Steps of a start that are measured before their time decides, unless a tenth of the limit is over."""

LATENCY = 1.0
"""Seconds between two decisions, of which all processes of a run learn."""


class TimeLimit(Callback):
    """Ends a run by the clock, with a cooldown of the LR that still fits into the time, or at once.

    With `then=cooldown` the LR begins to fall when the time that is left is just enough for `over`, by the mean time of
    a step so far, with its share of validations and checkpoints. A limit that is too short for all of `over` makes the
    cooldown shorter. A run whose plan ends in time is left alone. The first process decides for all.

    Time is counted from the start of the training, over all resumes; what a killed process did after its last
    checkpoint is done again, and is not counted. Building the model and reading the data are not counted either.

    Args:
        limit: the time, as a text such as `3 hours`.
        then: how the run ends.
        over: length of the cooldown.
        at_most: on several devices, the most steps between two decisions.
    """

    outlives_rollbacks = True  # a rollback takes back steps, and no time

    def __init__(self, limit: str, then: End, over: Duration, at_most: int = 50) -> None:
        self.limit, self.then, self.over = limit, then, over
        self._seconds, self._at_most = seconds_of(limit), at_most
        self._before = 0.0  # seconds of earlier starts
        self._started: float | None = None
        self._measured_from = 0.0
        self._first = self._step = self._next = 0

    def describe(self, horizon: Horizon) -> str:
        """Return a line that says what the callback would do to a run of this length."""
        if self.then == "stop":
            return f"trainer.max_time={self.limit}: the run then ends at once"
        steps = min(max(1, self.over.steps(horizon)), horizon.steps)
        last = counted(steps, "step")
        return f"trainer.max_time={self.limit}: the LR falls to its floor over the last {last} within this time"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = monotonic()
        self._first = self._step = trainer.global_step
        self._next = self._first + 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide after a step whether the run has to end."""
        step = trainer.global_step
        if step == self._step:  # within an accumulation window
            return
        self._step = step
        if step == self._first + 1:
            self._measured_from = monotonic()  # the first step is often slower than all others
        if step < self._next:
            return
        decision = self._decide(trainer) if trainer.is_global_zero else None
        if trainer.world_size > 1:
            decision = trainer.strategy.broadcast(decision)
        assert decision is not None
        steps, wait = decision
        self._next = step + wait
        if steps is not None:
            why = "is over" if self.then == "stop" else f"leaves time for {counted(steps, 'step')}"
            end_run(trainer, f"trainer.max_time={self.limit} {why}", self.then, Duration(steps, "steps"))

    def _decide(self, trainer: pl.Trainer) -> tuple[int | None, int]:
        """Return the length of the cooldown that has to begin now, or None, and the steps until the next decision."""
        now, done = monotonic(), trainer.global_step - self._first - 1
        left = self._seconds - self._elapsed()
        pace = (now - self._measured_from) / done if done else 0.0
        wait = 1 if trainer.world_size == 1 or not pace else max(1, min(self._at_most, int(LATENCY / pace)))
        if self.then == "stop":
            return (1 if left <= 0 else None), wait
        known = done > 0 and (done >= FIRST_STEPS or left <= 0.9 * self._seconds)
        if not known or (trainer.max_steps - trainer.global_step) * pace <= left:
            return None, wait
        longest = trainer.cooldown.steps(self.over, trainer.global_step)  # type: ignore[attr-defined]
        if (longest + wait) * pace < left:
            return None, wait
        return max(1, min(longest, int(left / pace) if pace else longest)), wait

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps: the seconds of training so far."""
        return {"seconds": self._elapsed()}

    def _elapsed(self) -> float:
        return self._before + (0.0 if self._started is None else monotonic() - self._started)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._before = float(state_dict["seconds"])


def time_limit(config: Config) -> list[TimeLimit]:
    """Return the callback that ends a run by the clock; none without `trainer.max_time`."""
    trainer = config.trainer
    if trainer.max_time is None:
        return []
    return [TimeLimit(trainer.max_time, trainer.at_max_time, trainer.max_time_cooldown, trainer.log_every)]


def early_ends(config: Config, horizon: Horizon) -> list[str]:
    """Return one line for each thing that may end a run before its plan does, and how it would.

    Args:
        config: of the run.
        horizon: the length of the run as it is planned.

    Raises:
        ConfigError: a duration cannot be counted in steps of this run.
    """
    try:
        interval: int | None = max(1, config.trainer.val_every.steps(horizon))
    except ValueError:  # the end of an epoch, whose steps are unknown
        interval = None
    lines, problems = [], []
    for limit in time_limit(config):
        try:
            lines.append(limit.describe(horizon))
        except ValueError as error:
            problems.append(Problem("trainer.max_time_cooldown", str(error), str(limit.over), "give it in steps"))
    for name, section in config.callbacks.named.items():
        if not isinstance(section, callback_schema.EarlyStopping):
            continue
        made = EarlyStopping(**{key: value for key, value in section.node().items() if key != "_target_"})
        try:
            lines.append(f"callbacks.{name}: {made.describe(horizon, interval)}")
        except ValueError as error:
            problems.append(Problem(f"callbacks.{name}", str(error), ..., "give patience and then_for in steps"))
    if problems:
        raise ConfigError(problems)
    return lines

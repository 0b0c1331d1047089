"""The callback that ends a run, at once or after a cooldown, when a metric no longer improves."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl

from lrflow.config.schemas.callbacks import End, patience_of
from lrflow.metric import LOSS, Metric
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.time import DurationLike
from lrflow.training.callbacks import ConfiguredCallback
from lrflow.training.cooldown import end_run
from lrflow.training.metric_reading import logged_metric
from lrflow.training.trainer import Trainer
from lrflow.wording import counted


class EarlyStopping(ConfiguredCallback):
    """Ends a run when a metric has not improved for a while, at once or with a cooldown.

    A schedule that decays is cut off before its end if a run stops at once, and the last weights are worse for it (the
    LR is still high, and the weights have not settled). With `then=cooldown` the plan branches instead: the LR of each
    group falls in a straight line from its present value to the floor, and the run ends there.

    The metric is read after each validation, the same value on every device. A value that is not finite is no
    improvement. No cooldown begins while a group has an LR of 0, as before it is unfrozen: the callback then acts at
    the first validation after that without an improvement.

    Args:
        monitor: the metric.
        mode: `min` or `max`; None guesses it by the name.
        patience: without an improvement: a number of validations in a row, or a duration since the best one.
        min_delta: changes by less than this are no improvement.
        then: `stop`: the run ends after this validation, as `ended_early`; `cooldown`: it ends after the LR has
            decayed, as `finished`.
        then_for: a duration, of the planned run: length of the cooldown.

    Raises:
        ValueError: patience, duration, mode or `then` are invalid.
    """

    def __init__(
        self,
        monitor: str = LOSS,
        mode: str | None = None,
        patience: int | str | Duration = 5,
        min_delta: float = 0.0,
        then: End = "stop",
        then_for: DurationLike = "10%",
    ) -> None:
        if then not in ("stop", "cooldown"):
            raise ValueError(f"then is stop or cooldown, not {then!r}")
        self.metric, self.patience = Metric.parse(monitor, mode), patience_of(patience)
        self.min_delta, self.then, self.then_for = min_delta, then, Duration.parse(then_for)
        self._best: float | None = None
        self._best_step = self._waited = 0

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint, which differs between metrics."""
        return f"EarlyStopping {self.metric}"

    def describe(self, horizon: Horizon, interval: int | None) -> str:
        """Return a line that says what the callback would do.

        Args:
            horizon: the length of the run as it is planned.
            interval: optimizer steps between two validations; None: unknown.
        """
        long = counted(self.patience, "validation") if isinstance(self.patience, int) else str(self.patience)
        line = f"after {long} without a better {self.metric}"
        if interval:
            after = self.patience if isinstance(self.patience, int) else math.ceil(self._steps(horizon) / interval)
            first = interval * (1 + after)
            if first >= horizon.steps:
                return f"{line}, which the run of {counted(horizon.steps, 'step')} is too short for"
            line += f", at step {first} of {horizon.steps} at the earliest"
        if self.then == "stop":
            return f"{line}, the run ends at once"
        steps = max(1, self.then_for.steps(horizon))
        if interval:
            steps = min(steps, horizon.steps - first)
        return f"{line}, the LR falls to its floor over {counted(steps, 'step')} and the run ends"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the metric with the best one, and end the run if it has not improved for too long."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = logged_metric(trainer, self.metric.name, key=f"{self.config_key}.monitor")
        cost, least = self.metric.cost(value), self._best
        if math.isfinite(value) and (least is None or cost < self.metric.cost(least) - self.min_delta):
            self._best, self._best_step, self._waited = value, trainer.global_step, 0
            return
        if isinstance(trainer, Trainer) and trainer.cooldown is not None and trainer.cooldown.has_begun:
            self._waited, self._best_step = 0, trainer.global_step  # patience starts anew if the run is made longer
            return
        self._waited += 1
        if self._is_over(trainer):
            best = "was never finite" if least is None else f"has not been better than {least:.6g} since step "
            best += "" if least is None else f"{self._best_step}"
            end_run(trainer, f"{self.metric.name} {best}", self.then, self.then_for)

    def _is_over(self, trainer: pl.Trainer) -> bool:
        if isinstance(self.patience, int):
            return self._waited >= self.patience
        assert isinstance(trainer, Trainer)
        assert trainer.horizon is not None
        return trainer.global_step - self._best_step >= self._steps(trainer.horizon, self._best_step)

    def _steps(self, horizon: Horizon, start: int = 0) -> int:
        """Return the patience in optimizer steps, counted from a step."""
        assert isinstance(self.patience, Duration)
        return max(1, self.patience.steps(horizon, start))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._best, self._best_step, self._waited = (state_dict[key] for key in ("best", "best_step", "waited"))

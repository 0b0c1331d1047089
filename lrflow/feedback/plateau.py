"""Lower the LR when a metric has stopped to improve."""

from __future__ import annotations

from typing import Any, ClassVar

from lrflow.feedback.feedback import MetricFeedback, refuse
from lrflow.feedback.improvement import Improvement, ThresholdMode
from lrflow.feedback.limits import LIMITS
from lrflow.limits import outside
from lrflow.metric import Metric, Mode
from lrflow.schedules.durations import DurationLike


class Plateau(MetricFeedback):
    """Multiplies the LR by `factor` after more than `patience` readings in a row that were no improvement.

    What torch's ReduceLROnPlateau does, reading for reading, as a factor on top of any schedule. A reading that is
    not a number is no improvement.

    Args:
        monitor: the metric, see `MetricFeedback`.
        mode: `min` or `max`; None: by the name of the metric.
        factor: of one cut; above 0 and below 1.
        patience: readings without improvement that are put up with.
        threshold: how much better than the best one a reading has to be.
        threshold_mode: `rel` (a share of the best) or `abs` (a difference).
        cooldown: readings after a cut that are not counted.
        min_factor: all cuts together never go below this.
        every: for metrics other than validation's; None: an epoch.

    Raises:
        ConfigError: values out of range.
    """

    nonfinite: ClassVar[str] = "it counts as no improvement"

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Mode | None = None,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: ThresholdMode = "rel",
        cooldown: int = 0,
        min_factor: float = 1e-3,
        every: DurationLike | None = None,
    ) -> None:
        refuse(outside(LIMITS["Plateau"], locals(), "feedback"))
        super().__init__(monitor, min_factor, 1.0, every)
        self._better = Improvement(mode or Metric.parse(monitor).mode, threshold, threshold_mode)
        self._cut, self._patience, self._cooldown = factor, patience, cooldown
        self._best: float | None = None
        self._bad = 0  # readings in a row without improvement
        self._cooling = 0  # readings left that are not counted

    @property
    def subject(self) -> str:
        """The metric and what is better of it."""
        return f"{self.monitor} ({self._better.mode})"

    def describe(self) -> str:
        """What it does, in one line."""
        return f"plateau on {self.subject}: x{self._cut:g} after {self._patience + 1} readings without improvement"

    def update(self, value: float) -> None:
        """Take the next reading; cut, if it is one too many without improvement."""
        if self._better(value, self._best):
            self._best = value
            self._bad = 0
        else:
            self._bad += 1
        if self._cooling:
            self._cooling -= 1
            self._bad = 0
        if self._bad > self._patience:
            self.multiply(self._cut)
            self._cooling = self._cooldown
            self._bad = 0

    def state_dict(self) -> dict[str, Any]:
        """The factor, the best reading, and the two counts."""
        return {"factor": self.factor, "best": self._best, "bad": self._bad, "cooling": self._cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self._best, self._bad, self._cooling = state["best"], state["bad"], state["cooling"]
        self.set(state["factor"])

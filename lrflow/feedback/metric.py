"""Feedback that reacts to a metric: Plateau, Greedy and KLAdaptive, and what counts as an improvement."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

from lrflow.feedback.feedback import MetricFeedback, raise_problems
from lrflow.feedback.limits import LIMITS
from lrflow.limits import outside
from lrflow.metric import Metric, Mode
from lrflow.schedules.time import DurationLike

ThresholdMode = Literal["rel", "abs"]


class Plateau(MetricFeedback):
    """Multiplies the LR by `factor` after more than `patience` readings in a row without improvement.

    It does the same as torch's ReduceLROnPlateau, as a factor on top of any schedule. NaN counts as no improvement.

    Args:
        monitor: the metric, see `MetricFeedback`.
        mode: `min` or `max`; None: guessed from the name of the metric.
        factor: of one cut; above 0 and below 1.
        patience: readings without improvement that are tolerated.
        threshold: how much better than the best reading an improvement is.
        threshold_mode: `rel` (a share of the best) or `abs` (a difference).
        cooldown: readings after a cut that do not count.
        min_factor: lower bound of the factor, over all cuts.
        every: a duration, for metrics other than validation metrics; None: an epoch.

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
        raise_problems(outside(LIMITS["Plateau"], locals(), "feedback"))
        super().__init__(monitor, min_factor, 1.0, every)
        self._better = Improvement(mode or Metric.parse(monitor).mode, threshold, threshold_mode)
        self._cut, self._patience, self._cooldown = factor, patience, cooldown
        self._best: float | None = None
        self._bad = 0  # readings in a row without improvement
        self._cooling = 0  # readings left that are not counted

    @property
    def subject(self) -> str:
        """The metric and its direction."""
        return f"{self.monitor} ({self._better.mode})"

    def describe(self) -> str:
        """Describe the feedback in one line."""
        return f"plateau on {self.subject}: x{self._cut:g} after {self._patience + 1} readings without improvement"

    def update(self, value: float) -> None:
        """Take the next reading; cut the LR if it exceeds the patience."""
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
        """Return the factor, the best reading, and the two counts."""
        return {"factor": self.factor, "best": self._best, "bad": self._bad, "cooling": self._cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._best, self._bad, self._cooling = state["best"], state["bad"], state["cooling"]
        self.set(state["factor"])


class Greedy(MetricFeedback):
    """Divides the LR by `factor` after more than `patience` improvements in a row; multiplies after as many failures.

    GreedyLR (Subramanian, Krishnamoorthy and Murthy, 2025, arXiv 2512.14527), counting as its implementation in
    transformers: readings during a cooldown or a warmup neither count nor become the best. It differs in three points.
    Bounds are fractions of the plan, so the factor can leave either bound again (transformers' default `min_lr=1e-3`
    raises any smaller LR to itself at the first cut). The relative threshold is as in `Improvement`. NaN counts as a
    failure and is left out of the mean.

    Args:
        monitor: the metric, see `MetricFeedback`.
        mode: `min` or `max`; None: guessed from the name of the metric.
        factor: of one change; above 0 and below 1.
        patience: improvements or failures in a row that change nothing yet.
        threshold: how much better than the best reading an improvement is.
        threshold_mode: `rel` or `abs`.
        window: readings that are averaged; 1: each reading by itself.
        cooldown: readings after a cut that do not count.
        warmup: readings after a raise that do not count.
        reset: cuts prevented by the lower bound after which everything restarts from factor 1; None: never.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration, for metrics other than validation metrics; None: an epoch.

    Raises:
        ConfigError: values out of range.
    """

    nonfinite: ClassVar[str] = "it counts as no improvement"

    def __init__(
        self,
        monitor: str = "train/loss",
        mode: Mode | None = None,
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: ThresholdMode = "abs",
        window: int = 1,
        cooldown: int = 0,
        warmup: int = 0,
        reset: int | None = None,
        min_factor: float = 0.01,
        max_factor: float = 10.0,
        every: DurationLike | None = None,
    ) -> None:
        raise_problems(outside(LIMITS["Greedy"], locals(), "feedback"))
        super().__init__(monitor, min_factor, max_factor, every)
        self._better = Improvement(mode or Metric.parse(monitor).mode, threshold, threshold_mode)
        self._step, self._patience, self._window = factor, patience, window
        self._cooldown, self._warmup, self._reset = cooldown, warmup, reset
        self._best: float | None = None
        self._readings: deque[float] = deque(maxlen=window)
        self._good = self._bad = 0  # improvements and failures in a row
        self._resting = 0  # readings left of a cooldown or a warmup
        self._refused = 0  # cuts at the lower bound since the last raise

    @property
    def subject(self) -> str:
        """The metric, its direction and the number of readings in the mean."""
        return f"{self.monitor} ({self._better.mode}{f', mean of {self._window}' if self._window > 1 else ''})"

    def describe(self) -> str:
        """Describe the feedback in one line."""
        count = self._patience + 1
        return (
            f"greedy on {self.subject}: /{self._step:g} after {count} improvements in a row, x{self._step:g} after "
            f"{count} failures"
        )

    def update(self, value: float) -> None:
        """Take the next reading, and move the factor if it exceeds the patience."""
        smooth = self._smoothed(value)
        if self._resting:
            self._resting -= 1
            self._good = self._bad = 0
            return
        if self._better(smooth, self._best):
            self._best = smooth
            self._good, self._bad = self._good + 1, 0
        else:
            self._good, self._bad = 0, self._bad + 1
        if self._good > self._patience:
            self.set(self.factor / self._step)
            self._good, self._refused, self._resting = 0, 0, self._warmup
        elif self._bad > self._patience:
            self.multiply(self._step)
            self._bad, self._resting = 0, self._cooldown
            if self.factor == self.min_factor:
                self._refused += 1
            if self._refused == self._reset:
                self._start_over()

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, the best reading, the readings of the window, and the counts."""
        return {
            "factor": self.factor,
            "best": self._best,
            "readings": list(self._readings),
            "good": self._good,
            "bad": self._bad,
            "resting": self._resting,
            "refused": self._refused,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._readings = deque(state["readings"], self._window)
        self._best, self._good, self._bad = state["best"], state["good"], state["bad"]
        self._resting, self._refused = state["resting"], state["refused"]
        self.set(state["factor"])

    def _smoothed(self, value: float) -> float:
        if not math.isfinite(value):  # it would make the mean infinite or NaN for a whole window
            return value
        self._readings.append(value)
        return fmean(self._readings)

    def _start_over(self) -> None:
        self.factor, self._best = 1.0, None
        self._readings.clear()
        self._good = self._bad = self._resting = self._refused = 0


class KLAdaptive(MetricFeedback):
    """Divides the LR by `factor` if the KL is above `band` times its target, multiplies it below target / band.

    It adapts the LR instead of PPO's KL penalty (Schulman et al., 2017, arXiv 1707.06347, section 4, with a band of 1.5
    and a factor of 2); the defaults are those of RSL-RL and rl_games. A KL of exactly 0 means that no policies were
    compared yet, and moves nothing, as in RSL-RL; NaN moves nothing either, and an infinite KL lowers the LR.

    Args:
        monitor: the metric that the module logs.
        desired_kl: the target; above 0.
        band: the ratio by which the KL may differ from the target in either direction; above 1.
        factor: of one change; above 1.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration; None: an epoch.

    Raises:
        ConfigError: values out of range.
    """

    nonfinite: ClassVar[str] = "the factor stays if it is nan and falls if it is inf"

    def __init__(
        self,
        monitor: str = "train/kl",
        desired_kl: float = 0.01,
        band: float = 2.0,
        factor: float = 1.5,
        min_factor: float = 0.01,
        max_factor: float = 10.0,
        every: DurationLike | None = None,
    ) -> None:
        raise_problems(outside(LIMITS["KLAdaptive"], locals(), "feedback"))
        super().__init__(monitor, min_factor, max_factor, every)
        self._desired, self._band, self._step = desired_kl, band, factor

    def describe(self) -> str:
        """Describe the feedback in one line."""
        low, high = self._desired / self._band, self._desired * self._band
        return f"KL-adaptive on {self.monitor}: x{self._step:g} below {low:g}, /{self._step:g} above {high:g}"

    def update(self, value: float) -> None:
        """Take the next reading, and move the factor if it is outside the band."""
        if value > self._desired * self._band:
            self.set(self.factor / self._step)
        elif 0 < value < self._desired / self._band:
            self.multiply(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Return the factor."""
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.set(state["factor"])


@dataclass(frozen=True)
class Improvement:
    """The criterion of an improvement, as in torch's ReduceLROnPlateau.

    Unlike there, a relative threshold is a share of the metric's absolute value, so that a negative metric must improve
    too (torch 2.13 takes -0.99995 for better than -1 in mode `min`), and an infinite reading is never an improvement.

    Args:
        mode: `min`: less is better; `max`: more is.
        threshold: how much better a reading must be; at least 0.
        threshold_mode: `rel`: a share of the best value so far; `abs`: a difference.
    """

    mode: Mode
    threshold: float
    threshold_mode: ThresholdMode

    def __call__(self, value: float, best: float | None) -> bool:
        """Return whether `value` is better than `best`; any finite value is better than None."""
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        sign = Metric("", self.mode).sign
        value, best = sign * value, sign * best
        if self.threshold_mode == "abs":
            return value < best - self.threshold
        return value < best * (1.0 - self.threshold if best >= 0 else 1.0 + self.threshold)

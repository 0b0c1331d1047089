"""Lower the LR when a metric has stopped to improve.

GreedyLR: raise the LR while the loss keeps improving, lower it when it does not.

KL-adaptive: keep the measured KL divergence of a policy near a target.

Whether a reading is better than the best one before it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

from lrflow.feedback.base import MetricFeedback, refuse
from lrflow.feedback.limits import LIMITS
from lrflow.limits import outside
from lrflow.metric import Metric, Mode
from lrflow.schedules.time import DurationLike


class KLAdaptive(MetricFeedback):
    """Divides the LR by `factor` where the KL is more than `band` times its target, multiplies it below a `band`-th.

    The LR in the place of PPO's KL penalty (Schulman et al., 2017, arXiv 1707.06347, section 4, there with a band of
    1.5 and a factor of 2), with the numbers of RSL-RL and rl_games. A KL of exactly 0 says that nothing was compared
    yet and moves nothing, as in RSL-RL; nor does one that is not a number, while an infinite one lowers.

    Args:
        monitor: the metric that the module logs.
        desired_kl: the target; above 0.
        band: how many times it may be off in either direction; above 1.
        factor: of one move; above 1.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration; None: an epoch.

    Raises:
        ConfigError: values out of range.
    """

    nonfinite: ClassVar[str] = "the factor stays where it is nan, and falls where it is inf"

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
        refuse(outside(LIMITS["KLAdaptive"], locals(), "feedback"))
        super().__init__(monitor, min_factor, max_factor, every)
        self._desired, self._band, self._step = desired_kl, band, factor

    def describe(self) -> str:
        """What it does, in one line."""
        low, high = self._desired / self._band, self._desired * self._band
        return f"KL-adaptive on {self.monitor}: x{self._step:g} below {low:g}, /{self._step:g} above {high:g}"

    def update(self, value: float) -> None:
        """Take the next reading, and move the factor where it is out of the band."""
        if value > self._desired * self._band:
            self.set(self.factor / self._step)
        elif 0 < value < self._desired / self._band:
            self.multiply(self._step)

    def state_dict(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.set(state["factor"])


ThresholdMode = Literal["rel", "abs"]


@dataclass(frozen=True)
class Improvement:
    """What counts as better, as torch's ReduceLROnPlateau has it.

    Unlike there, a relative threshold is a share of the metric's size, so that it asks for progress of a negative
    metric too (torch 2.13 takes -0.99995 for better than -1 in mode `min`), and an infinite reading is never better.

    Args:
        mode: `min`: less is better; `max`: more is.
        threshold: how much better it has to be; at least 0.
        threshold_mode: `rel`: as a share of the best so far; `abs`: as a difference.
    """

    mode: Mode
    threshold: float
    threshold_mode: ThresholdMode

    def __call__(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best`; anything finite is better than None."""
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        sign = Metric("", self.mode).sign
        value, best = sign * value, sign * best
        if self.threshold_mode == "abs":
            return value < best - self.threshold
        return value < best * (1.0 - self.threshold if best >= 0 else 1.0 + self.threshold)


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


class Greedy(MetricFeedback):
    """Divides the LR by `factor` after more than `patience` improvements in a row, multiplies after as many failures.

    GreedyLR (Subramanian, Krishnamoorthy and Murthy, 2025, arXiv 2512.14527), with the counting of its
    implementation in transformers: readings during a cooldown or a warmup neither count nor become the best. It
    departs from it in three points. Bounds are fractions of the plan, so that one can be left again from either side
    (transformers' default `min_lr=1e-3` lifts any smaller LR to itself at the first cut). The relative threshold is
    as in `Improvement`. A reading that is not a number is a failure, and stays out of the smoothing.

    Args:
        monitor: the metric, see `MetricFeedback`.
        mode: `min` or `max`; None: by the name of the metric.
        factor: of one move; above 0 and below 1.
        patience: improvements or failures in a row after which nothing happens yet.
        threshold: how much better than the best one a reading has to be.
        threshold_mode: `rel` or `abs`.
        window: readings whose mean is looked at; 1: each by itself.
        cooldown: readings after a cut that are left out.
        warmup: readings after a raise that are left out.
        reset: cuts refused at the lower bound after which all starts over from factor 1; None: never.
        min_factor: lower bound.
        max_factor: upper bound.
        every: for metrics other than validation's; None: an epoch.

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
        refuse(outside(LIMITS["Greedy"], locals(), "feedback"))
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
        """The metric, what is better of it, and over how many readings its mean is taken."""
        return f"{self.monitor} ({self._better.mode}{f', mean of {self._window}' if self._window > 1 else ''})"

    def describe(self) -> str:
        """What it does, in one line."""
        count = self._patience + 1
        return (
            f"greedy on {self.subject}: /{self._step:g} after {count} improvements in a row, x{self._step:g} after "
            f"{count} failures"
        )

    def update(self, value: float) -> None:
        """Take the next reading, and move the factor where it completes a row."""
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
        """The factor, the best reading, the readings of the window, and the counts."""
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
        """Go on from a state of `state_dict`."""
        self._readings = deque(state["readings"], self._window)
        self._best, self._good, self._bad = state["best"], state["good"], state["bad"]
        self._resting, self._refused = state["resting"], state["refused"]
        self.set(state["factor"])

    def _smoothed(self, value: float) -> float:
        if not math.isfinite(value):  # the mean would not be, either, for as long as the window is
            return value
        self._readings.append(value)
        return fmean(self._readings)

    def _start_over(self) -> None:
        self.factor, self._best = 1.0, None
        self._readings.clear()
        self._good = self._bad = self._resting = self._refused = 0

"""Whether a reading is better than the best one before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lrflow.metric import Metric, Mode

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

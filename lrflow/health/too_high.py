"""Detectors of an LR that is too high although the loss does not diverge."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lrflow.config.health_schema import OwnResponse, Response
from lrflow.display import number
from lrflow.finding import Finding
from lrflow.health.course import Course
from lrflow.health.detector import Detector
from lrflow.health.history import History


class TooHigh(Detector):
    """Finds a loss that is lost or stuck: an LR that was too high has destroyed what the model had, or could, learn.

    Lost: the model had learned, and the loss has risen by most of that and stays there. Stuck: the loss is that of the
    untrained model, although it has been above it, or the weights have grown a lot. (With an LR that is too low, it is
    stuck, too, but the weights hardly change.)

    Args:
        lost: share of the improvement.
        growth: how many times the norm of the weights of a group has grown.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False
    acts: ClassVar[tuple[Response, ...]] = ("stop", "recover")

    def __init__(self, lost: float = 0.6, growth: float = 1.5, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._lost, self._growth = lost, growth

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the loss is lost or stuck."""
        course = Course.of(history)
        if course is None or not course.is_flat or course.is_wild(history) or not course.low < float("inf"):
            return None
        if course.has_risen and course.is_stuck(history):
            return None  # that is `diverging`
        lost_level = course.best + self._lost * course.improvement
        if course.improvement > max(0.15 * course.scale, 2 * course.doubt) and course.low > lost_level:
            level = lost_level
            message = f"the loss rose from {number(course.best)} to {number(course.now)}, and stays there"
        elif course.is_stuck(history) and history.growth > self._growth:
            level = course.chance_level
            message = (
                f"the loss stays at {number(course.now)}; that of the untrained model is {number(course.untrained)}"
            )
        else:
            return None
        evidence = {"loss": course.now, "untrained_loss": course.untrained, "best_loss": course.best}
        evidence |= {"highest_loss": course.peak, "growth_of_weights": history.growth}
        remedy = f"optimizer.lr={number(history.facts.lr / 3)}, or schedule.warmup=10%"
        return Finding(self.kind, history.step, course.since(level), message, evidence, 0.8, remedy)


class Oscillating(Detector):
    """Finds a loss that jumps to and fro at an LR that stays at its peak, so that an LR that decays would help.

    Ignored by default: in the benchmark, most of what it finds is something else.

    Args:
        scatter: the interquartile range of the last losses, relative to the untrained loss.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False

    def __init__(self, scatter: float = 0.1, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._scatter = scatter

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the last losses scatter much more than their level."""
        course = Course.of(history)
        if course is None or not course.is_flat or history.step < 0.3 * history.facts.steps:
            return None
        loss = history.recent["loss"][-2 * course.width :]
        if not np.isfinite(loss).all() or history.growth < 1.5 or not history.is_at_peak(2 * course.width):
            return None
        scatter = course.scatter
        if scatter < max(self._scatter * course.scale, 0.8 * course.now):
            return None
        correlation = _correlation(loss)
        if correlation > 0.3:
            return None
        message = f"half of the last losses are {number(scatter)} apart, at a level of {number(course.now)}"
        evidence = {"loss": course.now, "scatter": scatter, "correlation": correlation}
        remedy = f"schedule=cosine, or optimizer.lr={number(history.facts.lr / 3)}"
        return Finding(self.kind, history.step, history.step - 2 * course.width, message, evidence, 0.3, remedy)


def _correlation(values: np.ndarray) -> float:
    """Return the correlation between consecutive values; 0 if they are equal."""
    off = values - values.mean()
    total = float((off**2).sum())
    return float((off[1:] * off[:-1]).sum()) / total if total else 0.0

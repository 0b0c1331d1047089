"""Detectors of an LR that is too high although the loss does not diverge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lrflow.config.schemas.health import OwnResponse, Response
from lrflow.finding import Finding
from lrflow.health.course import Course
from lrflow.health.detector import Detector
from lrflow.health.history import History, median
from lrflow.health.progress import MOVED, gradient_correlation
from lrflow.health.remedies import lower_lr, too_high_remedy
from lrflow.wording import counted, number

LOST = 0.2
"""Share of its gain that a loss has lost again when it has lost too much."""

_LEARNS = 0.25  # share of the run after which a model has begun to learn
_SATURATED = 2.5  # growth of the weights of a group from which on its gradients may vanish
_VALIDATIONS = 3  # last ones, none of which is good
_FIRST = 5  # means of the gradient norm, of 256 in the run, that are those of the start
_ALIKE = 0.05  # correlation of consecutive gradients from which on the order of the examples may make the loss jump


class TooHigh(Detector):
    """Finds what an LR that is too high does to a loss, as `harm_of` judges it, as long as the loss has not diverged.

    Args:
        lost: share of the improvement.
        growth: how many times the norm of the weights of a group has grown.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False
    acts: ClassVar[tuple[Response, ...]] = ("stop", "recover")
    covers: ClassVar[tuple[str, ...]] = ("too_high",)

    def __init__(self, lost: float = LOST, growth: float = MOVED, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._lost, self._growth = lost, growth

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the loss shows a sign that `harm_of` knows."""
        if not history.facts.losses:
            return self._judge_metric(history)
        course = Course.of(history)
        harm = harm_of(history, course, self._growth, self._lost) if course is not None else None
        if course is None or harm is None or course.has_risen:  # the last is `diverging`
            return None
        if harm.is_stuck and history.step < history.facts.warmup + _LEARNS * history.facts.steps:
            return None
        evidence = {"loss": course.now, "untrained_loss": course.untrained, "best_loss": course.best}
        evidence |= {"scatter": course.scatter, "growth_of_weights": history.growth}
        return self._found(history, harm.since, harm.message, evidence)

    def _judge_metric(self, history: History) -> Finding | None:
        """Return the finding if the weights have grown a lot, but the metric is nearer to its worst than to its best.

        The loss of a policy gradient says nothing.
        """
        metric = history.facts.metric
        steps, values = history.series(metric.name) if metric else (np.zeros(0), np.zeros(0))
        if metric is None or len(values) < _VALIDATIONS or not history.growth > _SATURATED:
            return None
        costs = values * metric.sign
        now = costs[-_VALIDATIONS:].min()
        if history.step < _LEARNS * history.facts.steps or now < (costs.min() + costs.max()) / 2:
            return None
        last = float(values[-1])
        message = f"the weights have grown {history.growth:.1f}-fold, but {metric.name} is {number(last)}"
        evidence = {"metric": last, "growth_of_weights": history.growth}
        return self._found(history, int(steps[-_VALIDATIONS]), message, evidence)

    def _found(self, history: History, since: int, message: str, evidence: dict[str, float]) -> Finding:
        return Finding(self.kind, history.step, since, message, evidence, 0.97, too_high_remedy(history.facts, since))


@dataclass(frozen=True)
class Harm:
    """What an LR that is too high has done to the loss.

    Args:
        message: what it is, as in a finding.
        since: the first step that shows it.
        is_stuck: whether the model has learned nothing.
    """

    message: str
    since: int
    is_stuck: bool = False


def harm_of(history: History, course: Course, growth: float, lost: float = LOST) -> Harm | None:
    """Return what an LR that is too high has done to the loss; None: nothing.

    - Stuck: the loss is that of the untrained model, although the weights have grown. (At an LR that is too low they
      hardly change.)
    - Lost: the loss has risen again by a share of what it had gained, and stays there. Training at a fitting LR does
      not lose what it has learned.
    - Saturated: the weights have grown a lot and the gradients have shrunk more than the loss, which is still more than
      half of the untrained one. Where a model learns, gradients shrink because the loss does.
    - Stalled: at an LR that will not decay, the loss has not fallen for 40% of the steps, although the weights have
      moved far. Where it is as low as it can be, the weights stay where they are.
    - Jumps: at such an LR, the losses of batches are as far apart as half of the loss. Noise of the examples makes the
      loss high, but its batches alike.

    A loss that is stalled or jumps at less than a tenth of the untrained one is good.

    Args:
        history: of the run.
        course: of its loss.
        growth: how many times the norm of the weights of a group must have grown, where it is measured.
        lost: that share of the gain.
    """
    if history.growth < growth or not course.is_flat or not course.low < np.inf or course.is_wild(history):
        return None
    now, scale = number(course.now), course.scale
    if course.is_stuck(history):
        if not (course.has_risen or history.growth >= growth):
            return None  # not measured: the LR may be too low as well
        message = f"the loss stays at {now}; that of the untrained model is {number(course.untrained)}"
        return Harm(message, course.since(course.chance_level), True)
    level = course.best + lost * course.improvement
    if course.improvement > max(0.15 * scale, 2 * course.doubt) and course.low > level:
        return Harm(f"the loss rose from {number(course.best)} to {now}, and stays there", course.since(level))
    if history.step < history.facts.warmup + _LEARNS * history.facts.steps:
        return None
    if harm := _saturated(history, course):
        return harm
    if history.facts.decays or not history.is_at_peak(2 * course.width) or course.low < 0.1 * scale:
        return None
    return _stalled(history, course) or _jumps(history, course)


def _saturated(history: History, course: Course) -> Harm | None:
    loss, gradient = course.low / max(course.untrained, 1e-12), _shrinkage(history, course.width)
    if not (history.growth > _SATURATED and loss > 0.5 and gradient < 0.7 * loss):
        return None
    message = (
        f"the weights have grown {history.growth:.1f}-fold, and the gradients are {gradient:.0%} of those at the start,"
        f" but the loss is {number(course.now)}, and that of the untrained model {number(course.untrained)}"
    )
    return Harm(message, int(_LEARNS * history.facts.steps))


def _stalled(history: History, course: Course) -> Harm | None:
    if not history.growth >= MOVED or 2 * history.step < history.facts.steps:
        return None
    is_early = course.steps <= 0.6 * history.step
    best_early, best_late = (course.levels[some].min(initial=np.inf) for some in (is_early, ~is_early))
    if not best_late > best_early - 0.02 * course.improvement:
        return None
    since = int(course.steps[is_early][course.levels[is_early].argmin()])
    stretch = counted(history.step - since, "step")
    message = f"the loss has not fallen for {stretch}, and is {number(course.now)} at the peak LR"
    return Harm(message, since)


def _jumps(history: History, course: Course) -> Harm | None:
    is_wide = course.scatter >= max(0.1 * course.scale, 0.5 * course.now)
    if not is_wide or gradient_correlation(history) > _ALIKE:
        return None
    message = f"half of the last losses are {number(course.scatter)} apart, at a level of {number(course.now)}"
    return Harm(message, history.step - 2 * course.width)


def _shrinkage(history: History, width: int) -> float:
    """Return the median gradient norm of the last steps, relative to the first; NaN: unknown."""
    norms = history.bins["grad_norm"].means[:_FIRST]
    first = median(norms) if len(norms) else 0.0
    return median(history.recent["grad_norm"][-2 * width :]) / first if first > 0 else float("nan")


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
        remedy = lower_lr(history.facts)
        if not history.facts.decays:
            remedy = f"schedule=cosine, or {remedy}"
        return Finding(self.kind, history.step, history.step - 2 * course.width, message, evidence, None, remedy)


def _correlation(values: np.ndarray) -> float:
    """Return the correlation between consecutive values; 0 if they are equal."""
    off = values - values.mean()
    total = float((off**2).sum())
    return float((off[1:] * off[:-1]).sum()) / total if total else 0.0

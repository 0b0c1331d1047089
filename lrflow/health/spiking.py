"""Detectors of a loss that rises for a while and comes back: spikes, and the end of a warmup that is too short."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lrflow.config.schemas.health import OwnResponse
from lrflow.finding import Finding
from lrflow.health.course import Course
from lrflow.health.detector import Detector
from lrflow.health.history import History, median
from lrflow.health.remedies import lower_lr
from lrflow.wording import counted, number

_SETTLED = 5  # steps after a spike whose median is the level to which the loss came back
_GRADIENT = 10.0  # how many times the median gradient norm, and 3 times the highest one before


class Spiking(Detector):
    """Finds losses and gradient norms that jump far above the level around them, and come back.

    Those that do not come back are found as `diverging` or `too_high`. Ignored by default: in the benchmark, one
    healthy run of twelve has such spikes, too.

    Args:
        deviations: height of a spike of the loss, in interquartile ranges of the losses around it.
        lost: least height, as a share of the improvement so far; at least 1: above the untrained loss.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False
    suspects_batches: ClassVar[bool] = True

    def __init__(self, deviations: float = 8.0, lost: float = 1.0, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._deviations, self._lost = deviations, lost

    def judge(self, history: History) -> Finding | None:
        """Return the finding if one of the last losses or gradient norms is a spike."""
        course = Course.of(history)
        start = history.facts.warmup + 3 * course.width if course is not None else 0
        if course is None or history.step < start + 3 * course.width:
            return None  # the loss still falls from where it began
        steps = history.recent_steps[-3 * course.width :]
        loss = history.recent["loss"][-len(steps) :]
        level, scatter = float(np.nanmedian(loss)), course.scatter
        least = self._lost * max(course.improvement, 0.2 * course.scale)
        limit = level + max(self._deviations * scatter, least)
        last = loss[-_SETTLED:]
        spikes = np.flatnonzero(loss[:-_SETTLED] > limit)
        if len(spikes) and np.nanmedian(last) < level + max(2 * scatter, 0.1 * least):
            height = float(loss[spikes].max())
            message = f"the loss jumped from {number(level)} to {number(height)}, and came back"
            evidence = {"loss": level, "highest_loss": height, "spikes": len(spikes)}
            return self._found(history, int(steps[spikes[0]]), message, evidence)
        gradient, own = history.recent["grad_norm"][-len(steps) :], history.bins["grad_norm"]
        earlier = own.high[: max(0, int(steps[0]) // own.width)].max(initial=0.0)
        usual = float(np.nanmedian(gradient))
        spikes = np.flatnonzero(gradient > _GRADIENT * usual)
        height = float(gradient[spikes].max(initial=0.0))
        if not (0 < 3 * earlier < height < np.inf):
            return None
        message = f"the gradient norm jumped from {number(usual)} to {number(height)}"
        return self._found(history, int(steps[spikes[0]]), message, {"grad_norm": usual, "highest_grad_norm": height})

    def _found(self, history: History, since: int, message: str, evidence: dict[str, float]) -> Finding:
        remedy = f"clip=norm clip.max_norm=1, or {lower_lr(history.facts)}"
        return Finding(self.kind, history.step, since, message, evidence, None, remedy)


class WarmupTooShort(Detector):
    """Finds a loss that rose at the end of the warmup and needed a quarter of the run to come back.

    What comes back sooner costs nothing: such runs end as well as others. And it comes back at an LR near the peak:
    where only a lower LR brings it back, no warmup would have helped.

    Where the sharpness is measured, it also finds an LR that is above the stability bound at the end of the warmup and
    below it later, at the same LR.

    Args:
        rise: least rise, relative to the untrained loss.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False

    def __init__(self, rise: float = 0.3, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._rise = rise

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the loss has come back from a rise at the end of the warmup."""
        warmup, course = history.facts.warmup, Course.of(history)
        if not warmup or history.step < 2 * warmup:
            return None
        near = [share for step, _, share in history.sharpness if 0.5 * warmup <= step <= 1.5 * warmup]
        later = [share for step, _, share in history.sharpness if step > 2 * warmup]
        if near and later and max(near) > 1 > max(later) and history.is_at_peak(1):
            message = f"the LR was {number(max(near))} of the stability bound at the end of the warmup"
            return self._found(history, warmup, message, {"share": max(near)})
        least = max(0.25 * history.facts.steps, warmup)  # steps in which it came back
        if course is None or history.step + course.width < warmup + least:
            return None
        steps, means = history.bins["loss"].steps, history.bins["loss"].means
        begin, end = np.searchsorted(steps, (0.75 * warmup, 2 * warmup), side="right")
        before, window = float(means[:begin].min(initial=course.untrained)), means[begin:end]
        if window.max(initial=before) < before + self._rise * abs(course.untrained):
            return None
        top = median(np.sort(window)[-5:]) if len(window) else before
        if top < before + max(self._rise * course.scale, 8 * course.scatter) or course.low > before:
            return None
        above = course.steps[(course.levels > before) & (course.steps > warmup)]
        needed = int(above.max(initial=warmup)) - warmup
        if needed < least:
            return None
        rates = history.bins["lr"]
        if np.interp(warmup + needed, rates.steps, rates.means) < 0.9 * history.facts.lr:
            return None  # it came back because the LR had decayed
        message = f"the loss rose from {number(before)} to {number(top)}, and came back after {counted(needed, 'step')}"
        return self._found(history, warmup, message, {"loss": before, "highest_loss": top})

    def _found(self, history: History, since: int, message: str, evidence: dict[str, float]) -> Finding:
        share = history.facts.warmup / history.facts.steps
        longer, remedy = min(0.3, max(0.1, 3 * share)), lower_lr(history.facts)
        if longer > share:
            remedy = f"schedule.warmup={longer:.0%}, or {remedy}"
        return Finding(self.kind, history.step, since, message, evidence, None, remedy)

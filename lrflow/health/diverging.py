"""The detector of a loss that rises and does not come back."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lrflow.config.schemas.health import OwnResponse, Response
from lrflow.finding import Finding
from lrflow.health.course import OVERFLOW, Course
from lrflow.health.detector import Detector
from lrflow.health.history import History
from lrflow.health.remedies import too_high_remedy
from lrflow.health.too_high import harm_of
from lrflow.wording import number

_LAST = 5  # finite losses before one that is not finite


class Diverging(Detector):
    """Finds a loss that was above that of the untrained model for a tenth of the run, and has not recovered.

    It has not recovered if it shows a sign that `harm_of` knows. If the examples come sorted, a loss also rises above
    that level; but then the weights hardly grow, and it is not found. A loss that is not finite has diverged if the
    losses just before it were too high already; else the data may be the reason.

    Args:
        growth: how many times the norm of the weights of a group must have grown, where it is measured, unless the
            loss was three times the untrained one.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False
    diverges: ClassVar[bool] = True
    acts: ClassVar[tuple[Response, ...]] = ("stop", "recover")
    covers: ClassVar[tuple[str, ...]] = ("too_high",)

    def __init__(self, growth: float = 1.3, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._growth = growth

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the loss has been above the untrained level, and is not below it again."""
        if history.facts.losses and history.not_finite and not np.isfinite(history.recent["loss"][-1]):
            return self._judge_overflow(history)
        course = Course.of(history)
        if course is None or not course.has_risen:
            return None
        harm = harm_of(history, course, 0.0 if course.has_exploded else self._growth)
        if harm is None:
            return None
        since = harm.since if harm.is_stuck else int(course.rose)
        return self._found(history, since, course.untrained, course.peak, course.now)

    def _judge_overflow(self, history: History) -> Finding | None:
        is_finite = np.isfinite(history.recent["loss"])
        last, first = history.recent["loss"][is_finite][-_LAST:], history.first[np.isfinite(history.first)]
        if not len(last) or not len(first) or last.max() < first[0] + (OVERFLOW - 1) * abs(first[0]):
            return None
        since = int(history.recent_steps[is_finite][-len(last)])
        return self._found(history, since, float(first[0]), float(last.max()), float("nan"))

    def _found(self, history: History, since: int, untrained: float, highest: float, now: float) -> Finding:
        then = f"is {number(now)}" if np.isfinite(now) else "is no longer finite"
        message = f"the loss rose from {number(untrained)}, without training, to {number(highest)}, and {then}"
        evidence = {"loss": now, "untrained_loss": untrained, "highest_loss": highest}
        return Finding(self.kind, history.step, since, message, evidence, 0.95, too_high_remedy(history.facts, since))

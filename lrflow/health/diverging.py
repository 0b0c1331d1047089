"""The detector of a loss that rises and does not come back."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lrflow.config.run_schema import Response
from lrflow.display import number
from lrflow.health.detector import Detector
from lrflow.health.history import History
from lrflow.training.findings import Finding

_STEPS = 20  # steps whose median is the loss of now


class Diverging(Detector):
    """Finds a loss that has risen far above its best level, and above that of the untrained model.

    The loss of now is the median of the last steps; the best level is the lowest mean over a part of the run.

    Args:
        factor: how many times the untrained model's loss, measured from the best level, counts as diverged.
        action: as in `Detector`.
    """

    diverges: ClassVar[bool] = True
    acts: ClassVar[tuple[Response, ...]] = ("stop", "recover")

    def __init__(self, factor: float = 1.5, action: Response | None = None) -> None:
        super().__init__(action)
        self._factor = factor

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the loss is above the untrained level."""
        if history.step < 2 * _STEPS or not history.facts.losses:
            return None
        loss = history.recent["loss"]
        loss = loss[~np.isnan(loss)][-_STEPS:]  # without steps that were left out, and NaN, which NonFinite finds
        if len(loss) < _STEPS:
            return None
        now = float(np.median(loss))
        untrained = float(history.first[0])
        best = float(history.bins["loss"].means.min(initial=untrained))
        if not now > best + self._factor * max(untrained - best, abs(untrained) * 0.1):
            return None
        above = history.recent["loss"] > max(untrained, best)
        start = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
        since = int(history.recent_steps[min(start, len(above) - 1)])
        message = f"the loss is {number(now)}, above the {number(untrained)} of the untrained model"
        evidence = {"loss": now, "untrained_loss": untrained, "best_loss": best}
        remedy = f"optimizer.lr={number(history.facts.lr / 3)}, or schedule.warmup=10%"
        return Finding(self.kind, history.step, since, message, evidence, 0.9, remedy)

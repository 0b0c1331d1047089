"""The detector of a group of parameters that does not move, or moves far more than the others."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lrflow.config.schemas.health import OwnResponse
from lrflow.finding import Finding
from lrflow.health.detector import Detector
from lrflow.health.history import History
from lrflow.wording import number

_LEAST = 4  # measurements from which anything is concluded
_LAST = 16  # measurements of which each has to show it


class DeadGroup(Detector):
    """Finds a group whose updates are next to nothing, or far too large, beside those of the other groups.

    An update is compared with the group's weights, and both as it is and for equal LRs, so that neither a low LR of the
    plan nor updates of another optimizer count. Frozen groups have no updates; a group counts from the step on at which
    its LR is no longer 0.

    Args:
        factor: how many times smaller the updates of a dead group are at least.
        excess: how many times larger the updates of a group that moves too far are at least.
        largest: share of its weights by which a group that moves too far changes at least in a step.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False

    def __init__(
        self, factor: float = 1e6, excess: float = 100.0, largest: float = 0.1, action: OwnResponse | None = None
    ) -> None:
        super().__init__(action)
        self._factor, self._excess, self._largest = factor, excess, largest

    def judge(self, history: History) -> Finding | None:
        """Return the finding for the group that is furthest from the others."""
        if not self._may_be_found(history):
            return None
        ratio, rates = history.update_ratio[-_LAST:], history.rates[-_LAST:]
        ratio = np.where((rates > 0) & np.isfinite(ratio), ratio, np.nan)
        counts = np.isfinite(ratio).all(axis=0)
        if counts.sum() < 2:
            return None
        furthest = ratio[:, counts].max(axis=1, keepdims=True)
        suspects = (ratio * self._factor <= furthest).all(axis=0) | (ratio >= self._largest).all(axis=0)
        per_rate = ratio / np.where(rates > 0, rates, np.nan)
        for group in np.flatnonzero(counts & suspects):  # none in most runs
            others = counts & (np.arange(len(counts)) != group)
            own, usual = ratio[:, group], np.median(ratio[:, others], axis=1)
            own_per_rate, usual_per_rate = per_rate[:, group], np.median(per_rate[:, others], axis=1)
            less, more = own * self._factor, own / self._excess
            is_dead = (less <= usual) & (own_per_rate * self._factor <= usual_per_rate) & (usual > 0)
            is_wild = (more >= usual) & (own_per_rate / self._excess >= usual_per_rate) & (own >= self._largest)
            if is_dead.all() or is_wild.all():
                return self._finding(history, int(group), float(np.median(own)), float(np.median(usual)))
        return None

    def _may_be_found(self, history: History) -> bool:
        """Whether the last measurement alone shows a group that is next to still, or moves far."""
        if len(history.rates) < _LEAST or history.rates.shape[1] < 2:
            return False
        last = zip(*(history.norms[name][-1].tolist() for name in ("update", "weight")), strict=True)
        ratios = [update / weight for update, weight in last if weight > 0]
        return bool(ratios) and (max(ratios) >= self._largest or min(ratios) * self._factor <= max(ratios))

    def _finding(self, history: History, group: int, own: float, usual: float) -> Finding:
        name = history.facts.groups[group]
        since = int(history.norm_steps[-_LAST:][0])
        evidence = {"update_ratio": own, "others": usual}
        if own < usual:
            message = (
                f"the group {name} does not move: its updates are {number(own)} of its weights, others {number(usual)}"
            )
            return Finding(self.kind, history.step, since, message, evidence, None, "")
        message = f"the group {name} changes by {own:.0%} of its weights per step, others by {number(usual)}"
        return Finding(self.kind, history.step, since, message, evidence, None, f"lr: 0.1x for {name} in layers.rules")

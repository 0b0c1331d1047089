"""Adjustments of the LR of a run that is under way: factors on top of its plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.plan import Plan, PlanScheduler
from lrflow.training.branches import Branch, FollowsPlan

log = logging.getLogger("lrflow")


@dataclass(frozen=True)
class Adjustment:
    """A factor on the planned LR: it rises from 1 in a straight line, and may fall back to 1 along half a cosine.

    Args:
        step: the first step with it.
        action: why it was made, in a word: `restart`, `kick` or `raise`.
        kind: of the finding to which it responds.
        factor: its highest value; above 1.
        rewarm: steps over which it rises.
        until: the step from which on it is 1 again; None: it stays.
        peak: the LR that results from this and earlier adjustments is at most so many times the planned peak; None:
            any. Only this factor is reduced for it.
        reason: message of the finding.
    """

    step: int
    action: str
    kind: str
    factor: float
    rewarm: int
    until: int | None = None
    peak: float | None = None
    reason: str = ""

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        """Return the factor at these steps, without its limit `peak`; [n], float64."""
        risen = np.clip((steps - self.step + 1) / (self.rewarm + 1), 0.0, 1.0)
        if self.until is not None:
            top = self.step + self.rewarm
            risen *= 0.5 + 0.5 * np.cos(np.pi * np.clip((steps - top) / max(1, self.until - top), 0.0, 1.0))
        return 1.0 + (self.factor - 1.0) * risen


class Adjustments(Callback, FollowsPlan):
    """Multiplies the planned LRs by the adjustments that a run makes, and records them.

    They are in each checkpoint, so that a run that is killed and resumed has the same LRs. A rollback takes back those
    of the steps that it abandons; the record keeps them. In a cooldown the factor stays what it was at its start, so
    that the LR falls from its value there.

    Args:
        plan: the plan of the run.
        branches: the branches that the run has made.
        report: is called with one line per adjustment.

    Attributes:
        facts: fields of the summary: `adjustments`, all of them as plain data.
    """

    def __init__(self, plan: Plan, branches: Sequence[Branch] = (), report: Callable[[str], None] = log.info) -> None:
        self.report = report
        self.active: list[Adjustment] = []
        self._record: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {"adjustments": self._record}
        self._plan = plan
        self._peaks = np.array([group.lr for group in plan.trainable])
        cooling = bool(branches) and branches[-1].reason is not None
        self._held = branches[-1].at if cooling else None  # the first step of the cooldown
        self._scheduler: PlanScheduler | None = None

    def factor(self, steps: np.ndarray) -> np.ndarray:
        """Return the product of all adjustments at these steps; [n], float64."""
        steps = steps if self._held is None else np.minimum(steps, self._held)
        product = np.ones(len(steps))
        for one in self.active:
            own = one(steps)
            if one.peak is not None:
                room = one.peak / np.maximum(self.share(steps) * product, 1e-300)
                own = np.maximum(1.0, np.minimum(own, room))
            product = product * own
        return product

    def share(self, steps: np.ndarray) -> np.ndarray:
        """Return the planned LR at these steps relative to the peak, of the group where it is highest; [n], float64."""
        return (self._plan.lr(steps) / self._peaks).max(axis=1, initial=0.0)

    def add(self, adjustment: Adjustment) -> None:
        """Adjust the LR from the next step on; every process has to call it at the same step."""
        self.active.append(adjustment)
        self._record.append(asdict(adjustment))
        self._apply()

    def follow(self, plan: Plan) -> None:
        """Keep the factor of this step from here on, where a cooldown begins."""
        assert self._scheduler is not None
        self._plan, self._held = plan, self._scheduler.last_epoch
        self._apply()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the adjustments of a resumed run, or of the state that a rollback returned to."""
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        self._scheduler = scheduler
        self._apply()

    def _apply(self) -> None:
        if self._scheduler is not None and (self.active or self._record):
            self._scheduler.multiply("adjustments", self.factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {"active": [asdict(one) for one in self.active], "record": list(self._record)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state; a rollback keeps the record."""
        self.active = [Adjustment(**one) for one in state_dict["active"]]
        saved = state_dict["record"]
        if self._record[: len(saved)] != saved:
            self._record[:] = saved


def has_adjusted(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the run that wrote a checkpoint had adjusted its LR."""
    return bool(checkpoint.get("callbacks", {}).get(Adjustments.__qualname__, {}).get("active"))

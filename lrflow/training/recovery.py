"""Requests for a rollback, what it changes in the run, and its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.plan import PlanScheduler
from lrflow.training.block import Block
from lrflow.wording import counted

STATE_KEY = "Rollback"
"""Key of the state of `lrflow.training.rollback.Rollback` among the callbacks of a checkpoint."""


class RollbackDue(Exception):  # noqa: N818  # no error: it only leads out of Lightning's loops
    """Raised between two batches, where the state of the run is whole; caught by the loop that runs the epochs."""


@dataclass
class Recovery:
    """One rollback of a run.

    Args:
        step: the step whose signals were evidence enough.
        since: the first step that is in question.
        to: the step that the run returned to.
        factor: on the planned LR from there on; it includes earlier rollbacks.
        rewarm: steps over which the LR rises from 0 to the planned one times the factor; 0: it is that at once.
        reason: why, for people.
        skipped: the steps, from there on, of which batches were left out; without accumulation they made no update.
    """

    step: int
    since: int
    to: int
    factor: float
    rewarm: int
    reason: str
    skipped: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def left_out(recoveries: Sequence[Recovery]) -> set[int]:
    """Return the steps of a run of which batches were left out; those that a later rollback abandoned do not count."""
    steps: set[int] = set()
    for recovery in recoveries:
        steps = {step for step in steps if step < recovery.to} | set(recovery.skipped)
    return steps


def describe_recovery(record: Mapping[str, int] | None, steps: int) -> str | None:
    """Return the line about rollbacks at the end of a run: `health: rolled back 2 times, ...`."""
    if not record or not record["rollbacks"]:
        return None
    back = f"health: rolled back {counted(record['rollbacks'], 'time')}"
    return back + f", batches of {record['left_out']:,} of {steps:,} steps left out" * bool(record["left_out"])


def factor_of(recoveries: Sequence[Recovery], steps: np.ndarray) -> np.ndarray:
    """Return the factor on the planned LR at these steps after the last rollback; [n], float64."""
    factor = np.full(len(steps), recoveries[-1].factor if recoveries else 1.0)
    if warming := [recovery for recovery in recoveries if recovery.rewarm]:
        last = warming[-1]
        factor *= np.clip((steps - last.to + 1) / (last.rewarm + 1), 1 / (last.rewarm + 1), 1.0)
    return factor


def summary_of(recoveries: Sequence[Recovery]) -> dict[str, Any]:
    """Return fields of the summary: the rollbacks as plain data, their number and that of steps left out."""
    counts = {"rollbacks": len(recoveries), "left_out": len(left_out(recoveries))}
    return {"recoveries": [recovery.to_dict() for recovery in recoveries], "recovery": counts}


def apply_recoveries(trainer: pl.Trainer, recoveries: Sequence[Recovery], facts: Mapping[str, Any]) -> None:
    """Multiply the LRs of a run from here on by the factor of its last rollback, and update its summary.

    Args:
        trainer: of the run.
        recoveries: its rollbacks so far.
        facts: what `summary_of` returned before; updated in place, since the run holds them already.
    """
    now = summary_of(recoveries)
    facts["recoveries"][:] = now["recoveries"]
    facts["recovery"].update(now["recovery"])
    if recoveries:
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        scheduler.multiply("rollbacks", partial(factor_of, recoveries))


class KeptCut(Callback):
    """Keeps the factor of earlier rollbacks on the LR in a run that is resumed and does not roll back any more.

    Its state in checkpoints has the key of `lrflow.training.rollback.Rollback`, which goes on from it if the run is
    resumed once more, with recovery.

    Attributes:
        facts: fields of the summary, as of `Rollback`.
    """

    state_key = STATE_KEY

    def __init__(self) -> None:
        self.facts, self._state = summary_of(()), dict[str, Any]()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Multiply the LRs by the factor."""
        apply_recoveries(trainer, [Recovery(**one) for one in self._state["recoveries"]], self.facts)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the checkpoint, without the snapshots that this run does not keep."""
        return {**self._state, "snapshots": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._state = state_dict


def recovered_factor(checkpoint: Mapping[str, Any]) -> float:
    """Return the factor of the last rollback on the LR of the run that wrote a checkpoint; 1: it has made none."""
    past = checkpoint.get("callbacks", {}).get(STATE_KEY, {}).get("recoveries")
    return float(past[-1]["factor"]) if past else 1.0


@dataclass(frozen=True)
class Request:
    """A request to roll back, the same on every process.

    Args:
        step: the step whose signals are evidence enough.
        since: the first step that is in question; the state before it is good.
        reason: why, for people.
        suspects: whether the batches of the steps in question are the likely cause, as of a spike.
        not_finite: whether the loss, the gradient or the weights are not finite.
        gradient_only: whether the loss of the step is finite and the gradient is not, so that no check of batches and
            losses would find the batch.
    """

    step: int
    since: int
    reason: str
    suspects: bool = False
    not_finite: bool = False
    gradient_only: bool = False


@dataclass(frozen=True)
class Changes:
    """What a rollback changes.

    Args:
        since: the run returns to the newest snapshot of this step or an earlier one.
        cut: factor on the LR besides those of earlier rollbacks.
        rewarm: steps over which the LR rises to its new value.
        skip: steps whose batches are left out.
        guard: up to this step every batch is checked, and left out where it, its loss or the gradient is not finite.
        is_certain: whether batches are known to be the cause, so that many in a row may be left out.
    """

    since: int
    cut: float = 1.0
    rewarm: int = 0
    skip: Sequence[int] = ()
    guard: float = 0
    is_certain: bool = False


class Policy(Protocol):
    """Decides what a rollback changes; its state is that of the run, so it goes back with it."""

    times: int
    """The most rollbacks of a run."""

    def observe(self, block: Block) -> None:
        """Receive the signals of consecutive steps."""

    def respond(self, request: Request, past: Sequence[Recovery]) -> Changes:
        """Return what to change; it may depend on nothing but the arguments and the steps up to the request's."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""

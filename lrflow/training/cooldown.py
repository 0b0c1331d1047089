"""The cooldown of a run that is under way: its plan branches, and the LR decays to its floor before the run ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Duration, Horizon
from lrflow.training.branches import Branch, FollowsPlan, cooldown_record
from lrflow.training.trainer import Trainer

log = logging.getLogger("lrflow")


class Cooldown:
    """Branches the plan of a run that is under way, as `resume.horizon=decay_now` does for a run that is resumed.

    From the step of the branch the LR of each group falls in a straight line to its floor, and the run ends there. All
    intervals of validations, checkpoints and feedback stay those of the run as it was planned. The branch is in every
    checkpoint from then on, so that a run that is killed in its cooldown is resumed exactly.

    Args:
        plan: the plan of the run.
        branches: the branches that the run has made.
        length: the length of the run without its cooldown, of which `over` in `begin` may be a share.
        recompile: compiles the plan of a horizon and branches.
        extra: what checkpoints hold besides Lightning's state; the plan and the branches in it are replaced.
        facts: fields of the summary; the cooldown is added.
        record: is called with the new plan, to write it into the run folder; only in the first process.
        report: is called with one line that says what happens.
    """

    def __init__(
        self,
        plan: Plan,
        branches: Sequence[Branch],
        length: Horizon,
        recompile: Callable[[Horizon, Sequence[Branch]], Plan],
        extra: dict[str, Any],
        facts: dict[str, Any],
        record: Callable[[Plan, dict[str, Any]], None],
        report: Callable[[str], None],
    ) -> None:
        self._plan, self._branches, self._length = plan, tuple(branches), length
        self._recompile, self._extra, self._facts = recompile, extra, facts
        self._record, self._report = record, report
        facts |= cooldown_record(self._branches, plan.horizon)

    @property
    def has_begun(self) -> bool:
        """Whether the run is in its cooldown."""
        return bool(self._branches) and self._branches[-1].reason is not None

    def steps(self, over: Duration, start: int) -> int:
        """Return the length of a cooldown that begins at a step, in optimizer steps, at least 1."""
        return max(1, over.steps(self._length, start))

    def may_begin(self, step: int) -> bool:
        """Whether a cooldown may begin at this step: the run has steps left, and no group has an LR of 0."""
        horizon = self._plan.horizon
        return step < horizon.steps and all(curve(step, horizon) > 0 for curve, _ in self._plan.curves)

    def begin(self, trainer: Trainer, reason: str, over: Duration) -> None:
        """Branch the plan after the steps made so far; every process has to call it at the same step.

        Args:
            trainer: of the run.
            reason: why, for people.
            over: length of the cooldown; it ends with the planned run at the latest.
        """
        step, before = trainer.global_step, self._plan.horizon
        horizon = replace(before, steps=min(before.steps, step + self.steps(over, step)))
        self._branches = (*self._branches, Branch(step, before, "decay_now", reason))
        self._plan = plan = self._recompile(horizon, self._branches)
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PlanScheduler):
                config.scheduler.follow(plan)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FollowsPlan):
                callback.follow(plan)
        trainer.run_for(horizon)
        record = cooldown_record(self._branches, horizon)
        self._extra |= {"plan": plan.to_dict(), "branches": [branch.as_dict() for branch in self._branches]}
        self._facts |= record
        if trainer.is_global_zero:
            self._report(f"step {step}: {reason}; the LR falls to its floor until the run ends at step {horizon.steps}")
            try:
                self._record(plan, record)
            except OSError as error:
                log.warning("the plan of the cooldown could not be written: %s", error.strerror)


def end_run(trainer: pl.Trainer, reason: str, then: str, over: Duration) -> None:
    """End a run before its plan does, unless its last step is done, or a cooldown has begun or may not begin now.

    Args:
        trainer: of the run.
        reason: why, for people.
        then: `stop`: after this step; `cooldown`: after the LR has decayed to its floor.
        over: length of the cooldown.
    """
    assert isinstance(trainer, Trainer)
    cooldown = trainer.cooldown
    if trainer.global_step >= trainer.max_steps or not trainer.fit_loop._can_stop_early:
        return
    if then == "stop" or cooldown is None:
        trainer.stop(reason)
    elif not cooldown.has_begun and cooldown.may_begin(trainer.global_step):
        cooldown.begin(trainer, reason, over)

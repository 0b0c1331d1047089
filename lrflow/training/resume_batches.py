"""Resuming a run whose batch changes, `schedule.batch`: the steps made so far keep their batches."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Horizon
from lrflow.schedules.batch_schedule import KEY, described
from lrflow.schedules.batches import BatchSteps
from lrflow.wording import counted


def resumed_batches(
    before: Horizon,
    now: Horizon,
    step: int,
    units: tuple[int | None, int | None],
    within_epoch: bool,
    max_epochs: int | None,
    max_steps: int | None,
    max_samples: int | None,
) -> Horizon:
    """Return the length of a resumed run, if it or its run so far has a batch that changes.

    Args:
        before: length of the run so far.
        now: length of a new run.
        step: number of optimizer steps done.
        units: samples of an accumulated batch, of the run so far and now; None: the loader's batches change.
        within_epoch: whether the checkpoint is within an epoch.
        max_epochs: epochs of the whole run; None for no limit.
        max_steps: optimizer steps of the whole run; None for no limit.
        max_samples: samples of the whole run; None for no limit.

    Raises:
        ConfigError: the steps made so far would have other batches, or their place in the data is unknown.
    """
    was, batch = _batches(before), _batches(now)
    if batch is None or was is None or not was.same_until(step, batch):
        had, has = ("unknown" if one is None else described(one.changes(step)) for one in (was, batch))
        message = f"the {counted(step, 'step')} made so far had the batch {had}, and would now have {has}"
        hint = "resume with the run's own sizes up to there; a share of the run moves with its end, so give steps"
        raise ConfigError([Problem(KEY, message, ..., hint)])
    if was.epoch != batch.epoch and None not in (was.epoch, batch.epoch):
        message = f"an epoch had {was.epoch:,} samples and has {batch.epoch:,} now: the place in the data is unknown"
        raise ConfigError([Problem(KEY, message, ..., "resume with the run's own data and limits")])
    if within_epoch and units[0] != units[1]:
        made = ["a loader whose batches change" if one is None else f"batches of {one:,}" for one in units]
        message = f"the checkpoint is within an epoch of {made[0]}, which now has {made[1]}"
        hint = "resume with the run's batch size, devices and schedule.batch_by, or from a checkpoint of an epoch's end"
        raise ConfigError([Problem(KEY, message, ..., hint)])
    limits = [] if max_steps in (None, -1) else [max_steps]
    if max_epochs not in (None, -1) and batch.epoch is not None:
        limits.append(batch.first_step(max_epochs or 0))
    if max_samples is not None:
        limits.append(int(batch.step_of_samples(Fraction(max_samples))))
    steps = min((limit for limit in limits if limit is not None), default=now.steps)
    return replace(now, steps=max(1, steps))


def _batches(horizon: Horizon) -> BatchSteps | None:
    """Return the batches of a run, of which one without a schedule has one; None: unknown."""
    if horizon.batch is not None:
        return horizon.batch
    size = horizon.samples_per_step
    return BatchSteps((0,), (int(size),)) if size is not None and size == int(size) else None

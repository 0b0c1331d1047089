"""resume.horizon=branch: a run of another length, without repeating what both have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from lrflow.config import Config, locate
from lrflow.errors import ConfigError, Problem
from lrflow.runs import RunFolder, checkpoints_in
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.specs import from_spec
from lrflow.tasks import build
from lrflow.training.resume import Resumed


def branch_point(config: Config, newest: Resumed) -> Resumed:
    """The newest checkpoint of a run up to which a run as it is configured now has the same LRs.

    Only the schedule of the run is looked at; `Resumed.branched` sees to the groups that have one of their own.

    Args:
        config: how long the run is to be, and its schedule.
        newest: the checkpoint that was asked for; it and the ones before it count.

    Raises:
        ConfigError: the two part before the first checkpoint.
    """
    ends = config.trainer
    horizon = newest.horizon(
        newest.plan.horizon, ends.max_epochs, ends.max_steps, ends.accumulate_grad_batches, ends.max_samples
    )
    spec: Any = OmegaConf.to_container(OmegaConf.create(newest.config)["schedule"], resolve=True)
    before = from_spec(spec, "schedule", locate)
    latest = min(newest.step, _common_steps(before, newest.plan.horizon, build.build_schedule(config), horizon))
    if not horizon.as_long_as(newest.plan.horizon):
        latest = min(latest, horizon.steps - 1)  # a step has to be left
    saved = {newest.step: newest.path} | {_step(path): path for path in checkpoints_in(newest.path.parent)}
    usable = [step for step in saved if step <= latest]
    if not usable:
        message = f"has no checkpoint of step {latest} or before, from where on a run of {horizon.steps} steps differs"
        hint = f"the first is of step {min(saved)}; trainer.checkpoint.keep=null keeps all"
        raise ConfigError([Problem("resume.from", message, str(RunFolder.of(newest.path).path), hint)])
    return Resumed.read(saved[max(usable)], locate)


def _common_steps(before: Curve, length: Horizon, now: Curve, horizon: Horizon) -> int:
    """For how many steps from the first on two runs have the same multipliers."""
    steps = np.arange(min(length.steps, horizon.steps))
    differ = np.flatnonzero(before(steps, length) != now(steps, horizon))
    return int(differ[0]) if len(differ) else len(steps)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])

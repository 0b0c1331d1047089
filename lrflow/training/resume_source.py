"""Which checkpoint a run is resumed from: the named one, the newest whole one of a run folder, or the branch point."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from lrflow.config import Config, locate
from lrflow.config.schemas.objects import Schedule
from lrflow.errors import ConfigError, Problem
from lrflow.runs import BEST, RunFolder, checkpoints_in, find_checkpoint, step_of
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.serialization import from_spec
from lrflow.training.checkpoint_file import BrokenCheckpointError, damage_of, step_in
from lrflow.training.resume import Resumed
from lrflow.wording import counted, joined

log = logging.getLogger("lrflow")


def read_resumed(wanted: str, output: Path, resolve: Callable[[str], Any] | None = None) -> Resumed:
    """Read the checkpoint that a run is resumed from, and report what is wrong with it or with later ones.

    Args:
        wanted: `resume.from`: `last`, a run folder or a checkpoint file. Damaged checkpoints are passed over unless one
            is named.
        output: folder of the run folders.
        resolve: as in `Resumed.read`.

    Raises:
        ConfigError: there is no such checkpoint, or it is not one of lrflow.
        BrokenCheckpointError: the named checkpoint is damaged, or each one of the folder is.
    """
    path = find_checkpoint(wanted, output, "resume.from")
    broken: dict[str, str] = {}
    if not Path(wanted).is_file():
        for candidate in reversed(checkpoints_in(path.parent)):
            if (reason := damage_of(candidate)) is None:
                path = candidate
                break
            broken[candidate.name] = reason
            best = candidate.with_name(BEST)
            if step_in(best) == step_of(candidate) and damage_of(best) is None:  # a copy of it
                path = best
                break
    elif path in (saved := checkpoints_in(path.parent)):
        for later in saved[saved.index(path) + 1 :]:
            if (reason := damage_of(later)) is None:
                broken = {}
                break
            broken[later.name] = reason
    if path.name in broken:
        raise BrokenCheckpointError(path, broken[path.name])
    resumed = replace(Resumed.read(path, resolve), broken=broken)
    if resumed.merged:
        message = "holds merged weights, without the state of an optimizer to resume"
        raise ConfigError([Problem("resume.from", message, str(path), f"model.init_from={path} starts a new run")])
    if broken:
        what = joined([f"{name} {reason}" for name, reason in sorted(broken.items())], 3)
        log.warning("%s: %s; the run resumes from %s", path.parent, what, path.name)
    if resumed.not_finite:
        finite = _last_finite(path, resolve)
        where = f"resume={finite} goes back to the last finite one" if finite else "there is no finite one before it"
        log.warning("%s is not finite (%s); %s", path, joined(resumed.not_finite, 5), where)
    return resumed


def resumed_facts(resumed: Resumed | None) -> dict[str, Any]:
    """Return what the record of a run says about the checkpoint that it was resumed from."""
    if resumed is None:
        return {}
    checkpoint = RunFolder.of(resumed.path).relative(resumed.path)
    return {"resumed": {"checkpoint": checkpoint, "step": resumed.step, "broken": dict(resumed.broken)}}


def branch_point(config: Config, newest: Resumed) -> Resumed:
    """Return the newest checkpoint of a run up to which a new run with this configuration has the same LRs.

    It compares only the schedule of the run; `Resumed.branched` checks groups with their own schedules.

    Args:
        config: the schedule and the length of the new run.
        newest: the requested checkpoint; the result is this one or an earlier one.

    Raises:
        ConfigError: the LRs differ before the first checkpoint.
    """
    limits = config.trainer
    if cooled := [branch.at for branch in newest.branches if branch.reason is not None]:
        early = [path for path in checkpoints_in(newest.path.parent) if step_of(path) < cooled[0]]
        if not early:
            message = f"has no checkpoint before step {cooled[0]}, at which its cooldown began"
            hint = "trainer.checkpoint.keep=null keeps all; resume.horizon=extend continues from the cooldown"
            raise ConfigError([Problem("resume.from", message, str(RunFolder.of(newest.path).path), hint)])
        newest = Resumed.read(early[-1], locate)
    horizon = newest.horizon(
        newest.plan.horizon,
        limits.max_epochs,
        limits.max_steps,
        limits.accumulate_grad_batches,
        limits.max_samples,
        newest.batch_unit,
    )
    spec: Any = OmegaConf.to_container(OmegaConf.create(newest.config)["schedule"], resolve=True)
    before = from_spec(Schedule.spec_of(spec), "schedule", locate)
    latest = min(newest.step, _common_steps(before, newest.plan.horizon, config.schedule.curve(), horizon))
    if not horizon.same_length(newest.plan.horizon):
        latest = min(latest, horizon.steps - 1)  # at least one step remains
    saved = {newest.step: newest.path} | {step_of(path): path for path in checkpoints_in(newest.path.parent)}
    usable = [step for step in saved if step <= latest]
    if not usable:
        run = counted(horizon.steps, "step")
        message = f"has no checkpoint at or before step {latest}, after which a run of {run} has other LRs"
        hint = f"the first is of step {min(saved)}; trainer.checkpoint.keep=null keeps all"
        raise ConfigError([Problem("resume.from", message, str(RunFolder.of(newest.path).path), hint)])
    for step in sorted(usable, reverse=True):
        with suppress(BrokenCheckpointError):
            return Resumed.read(saved[step], locate)
    return Resumed.read(saved[max(usable)], locate)


def _common_steps(before: Curve, length: Horizon, now: Curve, horizon: Horizon) -> int:
    """Return the number of first steps at which two runs have the same LR multipliers."""
    steps = np.arange(min(length.steps, horizon.steps))
    differ = np.flatnonzero(before(steps, length) != now(steps, horizon))
    return int(differ[0]) if len(differ) else len(steps)


def _last_finite(path: Path, resolve: Callable[[str], Any] | None) -> Path | None:
    for candidate in reversed(checkpoints_in(path.parent)):
        if candidate != path and damage_of(candidate) is None and not Resumed.read(candidate, resolve).not_finite:
            return candidate
    return None

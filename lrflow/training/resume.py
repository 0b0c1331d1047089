"""Going on with a run: what its checkpoint says, what has changed since, which LR it goes on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from omegaconf import OmegaConf
from torch import nn

from lrflow.config import Config, locate
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.layers import Group
from lrflow.layers.groups import abbreviated
from lrflow.plan import Plan
from lrflow.runs import RunFolder, checkpoints_in, newest_checkpoint
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.base import BETA
from lrflow.schedules.serialization import from_spec
from lrflow.schedules.time import durations_in
from lrflow.schedules.wrappers import ContinueMode
from lrflow.training.branches import Branch, compile_branched
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.feedback_loop import dropped_message
from lrflow.training.loaders import Position
from lrflow.training.resume_checks import FindTraits, check_not_frozen_again, check_same_optimizer, check_same_past

#: Keys whose change is no change of the run: where it is written, what it is called, how it is asked for.
_IGNORED_KEYS = ("resume", "task", "against", "output", "name", "horizon", "logger", "trial", "trainer.progress")


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to go on from.

    Args:
        path: the checkpoint.
        step: optimizer steps behind it.
        position: the next batch.
        plan: the plan it was following.
        branches: earlier resumptions with another length.
        config: the configuration it was run with, interpolations as they were written.
        shapes: the shape of every tensor of the model.
        accumulate: batches of an optimizer step.
        routes: the route of every parameter's optimizer, by its name.
        feedback: what is told where the run goes on without the feedback that it had; None: it had none.
    """

    path: Path
    step: int
    position: Position
    plan: Plan
    branches: tuple[Branch, ...]
    config: dict[str, Any]
    shapes: dict[str, list[int]]
    accumulate: int
    routes: dict[str, str | None]
    feedback: str | None = None

    @classmethod
    def read(cls, path: Path, resolve: Callable[[str], Any] | None = None) -> Resumed:
        """Read what a checkpoint says about its run; its tensors stay on disk.

        Args:
            path: the checkpoint.
            resolve: finds the class of a user's own schedule by its dotted name; None knows lrflow's.

        Raises:
            BrokenCheckpointError: the file is not whole.
            LrflowError: it is not lrflow's.
        """
        content = read_checkpoint(path, map_location="cpu", mmap=True)
        ours = content.get("lrflow")
        if not ours:
            raise LrflowError(f"{path}: not a checkpoint of lrflow, which are the ones it can resume")
        return cls(
            path=path,
            step=content["global_step"],
            position=Position(**ours["position"]),
            plan=Plan.from_dict(ours["plan"], resolve),
            branches=tuple(Branch.from_dict(branch) for branch in ours["branches"]),
            config=ours["config"],
            shapes={name: list(tensor.shape) for name, tensor in content["state_dict"].items()},
            accumulate=ours["accumulate"],
            routes={
                name: saved.get("route")
                for names, saved in zip(ours["groups"], content["optimizer_states"][0]["param_groups"], strict=True)
                for name in names
            },
            feedback=dropped_message(content["feedback"]) if "feedback" in content else None,
        )

    @property
    def is_newest(self) -> bool:
        """Whether no later checkpoint stands beside it in a run folder."""
        folder = RunFolder.of(self.path)
        return self.path.parent == folder.checkpoints and newest_checkpoint(folder.path) == self.path

    @property
    def samples(self) -> Decimal | None:
        """What the run has seen, over all lengths that it had; None where a step of one of them is not known."""
        runs = [*(branch.before for branch in self.branches), self.plan.horizon]
        ends = [*(branch.at for branch in self.branches), self.step]
        seen = Decimal(0)
        for run, start, end in zip(runs, [0, *ends], ends, strict=False):
            if run.samples_per_step is None:
                return None
            seen += (end - start) * Decimal(repr(run.samples_per_step))
        return seen

    @property
    def moved(self) -> tuple[str, ...]:
        """What the run moved besides the LR: what its checkpoint says of these settings is not what is configured."""
        names = dict.fromkeys(moved.setting for moved, _ in self.plan.scheduled_settings)
        return tuple("betas" if BETA.fullmatch(name) else name for name in names)

    def check(self, module: nn.Module) -> None:
        """See whether the checkpoint fits the model.

        Raises:
            LrflowError: says what differs.
        """
        now = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
        differ = [
            f"{name}: {_shape(self.shapes.get(name))} in the checkpoint, {_shape(now.get(name))} in the model"
            for name in {**now, **self.shapes}
            if self.shapes.get(name) != now.get(name)
        ]
        if differ:
            shown = "\n    ".join([*differ[:5], *(["..."] if len(differ) > 5 else [])])
            raise LrflowError(f"{self.path}: another model than the one to be trained\n    {shown}")

    def check_config(self, config: Mapping[str, Any], find: FindTraits) -> None:
        """See whether the checkpoint holds the state that the configured optimizer goes on from.

        Args:
            config: of the run that is to go on from it.
            find: the traits of an optimizer.

        Raises:
            ConfigError: says what does not fit.
        """
        if problems := check_same_optimizer(self.config.get("optimizer", {}), config.get("optimizer", {}), find):
            raise ConfigError(problems)

    def reconfigured(self, config: Mapping[str, Any]) -> set[str | None]:
        """The routes whose optimizer the configuration describes otherwise now; None is the main one."""
        before, now = (dict(one.get("optimizer", {})) for one in (self.config, config))
        former, routes = (one.pop("routes", None) or {} for one in (before, now))
        changed: set[str | None] = {route for route, own in routes.items() if own != former.get(route, own)}
        return changed | ({None} if before != now else set())

    def check_plan(self, plan: Plan) -> None:
        """See that what has trained is not to be frozen again.

        Raises:
            ConfigError: names the groups.
        """
        if problems := check_not_frozen_again(self.plan, plan, self.step):
            raise ConfigError(problems)

    def changes(self, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """What the configuration says otherwise now: (key, before, now), sorted by key."""
        before, now = flatten(self.config), flatten(config)
        keys = sorted({*before, *now})
        return [
            (key, before.get(key), now.get(key))
            for key in keys
            if before.get(key) != now.get(key) and not _is_ignored(key)
        ]

    def horizon(
        self,
        counted: Horizon,
        max_epochs: int | None,
        max_steps: int | None,
        accumulate: int,
        max_samples: int | None = None,
    ) -> Horizon:
        """How long the run is, counted from where it stands: its epochs so far may have had another length.

        Where what ends the run and divides its epochs is what it was, it is as long as it was.

        Args:
            counted: how long a new run would be.
            max_epochs: epochs of the whole run; None or -1 for no limit.
            max_steps: optimizer steps of the whole run; None or -1 for no limit.
            accumulate: batches of an optimizer step.
            max_samples: that the whole run sees at most; None for no limit.

        Raises:
            ConfigError: the run stands within an epoch, and epochs are divided otherwise now.
        """
        each, now = self.plan.horizon.steps_per_epoch, counted.steps_per_epoch
        divided_alike = (each, self.accumulate) == (now, accumulate)
        if self.position.batch and not divided_alike:
            message = (
                f"the checkpoint stands within an epoch of {each} steps of {self.accumulate} batches, and an epoch has "
                f"{now} of {accumulate} now: where it would go on in the data is not known"
            )
            hint = "resume with the run's batch size, devices and accumulation, or from a checkpoint of an epoch's end"
            raise ConfigError([Problem("resume.from", message, str(self.path), hint)])
        ends = {"max_epochs": max_epochs, "max_steps": max_steps, "max_samples": max_samples}
        was = self.config.get("trainer", {})
        sees_alike = max_samples is None or counted.samples_per_step == self.plan.horizon.samples_per_step
        if divided_alike and sees_alike and all(name in was and was[name] == end for name, end in ends.items()):
            return replace(counted, steps=self.plan.horizon.steps)
        limits = [] if max_steps in (None, -1) else [max_steps]
        if now is not None and max_epochs not in (None, -1):
            if divided_alike and not self.branches:
                limits.append(max_epochs * now)  # whatever number of steps its epochs really had
            else:
                limits.append(self.step + (max_epochs - self.position.epoch) * now - self.position.batch // accumulate)
        if max_samples is not None:
            per_step = Decimal(repr(counted.samples_per_step))
            seen = self.step * per_step if self.samples is None else self.samples
            limits.append(self.step + int((max_samples - seen) / per_step))
        return replace(counted, steps=max(1, min(limits)))

    def branched(
        self,
        horizon: Horizon,
        how: ContinueMode | Literal["branch"] | None,
        groups: Sequence[Group],
        schedule: Curve,
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[Branch, ...]:
        """The run's branches, with a new one on top when it has another length now.

        Args:
            horizon: how long the run is now.
            how: what becomes of the schedule; `branch`: it is that of a new run of this length, which has to have had
                the same LRs up to here; None: nothing was chosen.
            groups: of the model.
            schedule: as it is configured.
            settings: of the optimizer, as `Plan.compile` takes them.

        Raises:
            ConfigError: the length changed and nothing was chosen; names the LR that each choice goes on with. Or a
                branch had other LRs.
        """
        if how == "branch":
            if problems := check_same_past(
                self.plan, compile_branched(groups, schedule, horizon, (), settings), self.step
            ):
                raise ConfigError(problems)
            return ()
        if self._as_long_as(horizon, [group.curve(schedule) for group in groups]):
            return self.branches
        if self.step >= horizon.steps:
            message = f"the checkpoint is at step {self.step}, and the run now ends at {horizon.steps}"
            raise ConfigError([Problem("trainer.max_epochs", message, ..., "make the run longer")])
        choices = {
            choice: (*self.branches, Branch(self.step, self.plan.horizon, choice)) for choice in get_args(ContinueMode)
        }
        if how is not None:
            return choices[how]
        offers = [f"the LR of step {self.step - 1} was {_rates(self.plan, self.step - 1)}"]
        for choice, branches in choices.items():
            plan = compile_branched(groups, schedule, horizon, branches, settings)
            if any(curve.check(horizon) for curve, _ in plan.curves):
                continue  # it would be refused
            now, end = _rates(plan, self.step), _rates(plan, horizon.steps - 1)
            offers.append(f"resume.horizon={choice}: LR {now} now, {end} at the end")
        was = self.plan.horizon
        change = f"the run was {was.steps} steps long and is {horizon.steps} now"
        if was.same_length(horizon):
            change = f"a step saw {was.samples_per_step:g} samples and sees {horizon.samples_per_step:g} now"
        elif was.steps == horizon.steps:
            change = f"an epoch was {was.steps_per_epoch} steps long and is {horizon.steps_per_epoch} now"
        message = f"{change}: choose the LR from here on"
        raise ConfigError([Problem("resume.horizon", message, None, "\n".join(offers))])

    def _as_long_as(self, horizon: Horizon, curves: Sequence[Curve]) -> bool:
        """Whether the run has the length that it had, as far as its schedules can tell."""
        was, seen = self.plan.horizon, {self.plan.horizon.samples_per_step, horizon.samples_per_step}
        told = self.plan.in_samples or any(duration.unit == "samples" for duration in durations_in(curves))
        return was.same_length(horizon) and (len(seen - {None}) < 2 or not told)

    def describe(self, plan: Plan, config: Mapping[str, Any], groups: Sequence[Group] = ()) -> str:
        """What a person wants to know before the run goes on: from where, under which LR, and what changed."""
        lines = [f"resumed from {self.path} at step {self.step} of {plan.horizon.steps}"]
        if plan.fingerprint != self.plan.fingerprint:
            before, now = _rates(self.plan, self.step), _rates(plan, self.step)
            change = f"is {now} as before" if before == now else f"was to be {before}, is {now}"
            lines.append(f"  the plan changed: LR at step {self.step} {change}")
        for key, was, now_is in self.changes(config):
            lines.append(f"  {key}: {was} -> {now_is}")
        trained = [(name, group.route) for group in groups if not group.frozen for name, _ in group.parameters]
        if anew := [name for name, route in trained if self.routes.get(name, route) != route]:
            lines.append(f"  without state, as their optimizer is another: {abbreviated(anew)}")
        return "\n".join(lines)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys; lists are values."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _is_ignored(key: str) -> bool:
    return any(key == beside or key.startswith(f"{beside}.") for beside in _IGNORED_KEYS)


def _rates(plan: Plan, step: int) -> str:
    return ", ".join(f"{rate:.3g}" for rate in dict.fromkeys(plan.lr(step).tolist()))


def _shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"


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
    latest = min(newest.step, _common_steps(before, newest.plan.horizon, config.schedule.curve(), horizon))
    if not horizon.same_length(newest.plan.horizon):
        latest = min(latest, horizon.steps - 1)  # a step has to be left
    saved = {newest.step: newest.path} | {_step_of(path): path for path in checkpoints_in(newest.path.parent)}
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


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])

"""Resuming a run: reading its checkpoint, comparing configurations, its new length, and the branch point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from lrflow.config.restart import differences
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.plan.scalars import PlanScalar
from lrflow.runs import BEST, RunFolder, step_of
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.curve import BETA
from lrflow.schedules.time import durations_in
from lrflow.schedules.wrappers import ContinueMode
from lrflow.training import resume_checks as checks
from lrflow.training.adjustments import has_adjusted
from lrflow.training.branches import Branch, compile_branched, length_without_cooldown
from lrflow.training.checkpoint_file import newest_whole_checkpoint, read_checkpoint
from lrflow.training.feedback_loop import dropped_message
from lrflow.training.loaders import Position
from lrflow.training.recovery import recovered_factor
from lrflow.training.resume_batches import resumed_batches
from lrflow.training.resume_checks import FindTraits
from lrflow.wording import counted, joined


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to resume from.

    Args:
        path: the checkpoint.
        step: number of optimizer steps done.
        position: position of the next batch.
        plan: the plan that the run followed.
        branches: earlier resumptions with another length.
        config: the configuration of the run, with interpolations unresolved.
        shapes: the shape of every tensor of the model.
        accumulate: number of batches per optimizer step.
        routes: the route of each parameter's optimizer, by parameter name.
        recovered: the factor of its last rollback on the LR; 1: it has made none.
        adjusted: whether it has adjusted its LR, as after a finding.
        feedback: message for a run that resumes without the feedback that it had; None: it had none.
        end: for a run that made its last step: what ended it before the end of its plan (`ended_by`), whether its last
            weights were validated (`validated`), and its `metrics`; None: it has steps left, or an earlier version
            saved it.
        not_finite: the tensors that are not finite.
        data: the fingerprint of the data; None: an earlier version saved it.
        preprocessing: what the data's normalisation was fitted to; None: nothing, or an earlier version saved it.
        batch_unit: samples of an accumulated batch on all devices, if steps accumulate different numbers of them.
        merged: whether its weights were merged from several checkpoints; there is no state of the optimizer then.
        broken: later checkpoints of the run that are damaged, and what is wrong with each.
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
    recovered: float = 1.0
    adjusted: bool = False
    feedback: str | None = None
    end: Mapping[str, Any] | None = None
    not_finite: tuple[str, ...] = ()
    data: Mapping[str, Any] | None = None
    preprocessing: Mapping[str, Any] | None = None
    batch_unit: int | None = None
    merged: bool = False
    broken: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, resolve: Callable[[str], Any] | None = None) -> Resumed:
        """Read a checkpoint's information about its run; its tensors stay on disk.

        Args:
            path: the checkpoint.
            resolve: finds the class of a user's own schedule by its dotted name; None finds only those of lrflow.

        Raises:
            BrokenCheckpointError: the file is damaged.
            ConfigError: it is not a checkpoint of lrflow.
        """
        content = read_checkpoint(path, map_location="cpu", mmap=True)
        try:
            return cls._from_content(path, content, content["lrflow"], resolve)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            hint = f"model.init_from={path} starts a new run from its weights" if "state_dict" in content else None
            message = "not a checkpoint of lrflow, and only those can be resumed"
            raise ConfigError([Problem("resume", message, str(path), hint)]) from error

    @classmethod
    def _from_content(
        cls, path: Path, content: Mapping[str, Any], own: Mapping[str, Any], resolve: Callable[[str], Any] | None
    ) -> Resumed:
        return cls(
            path=path,
            step=content["global_step"],
            position=Position(**own["position"]),
            plan=Plan.from_dict(own["plan"], resolve),
            branches=tuple(Branch.from_dict(branch) for branch in own["branches"]),
            config=own["config"],
            shapes={name: list(tensor.shape) for name, tensor in content["state_dict"].items()},
            accumulate=own["accumulate"],
            routes={
                name: saved.get("route")
                for names, saved in zip(own["groups"], content["optimizer_states"][0]["param_groups"], strict=True)
                for name in names
            },
            recovered=recovered_factor(content),
            adjusted=has_adjusted(content),
            feedback=dropped_message(content["feedback"]) if "feedback" in content else None,
            end=own.get("end"),
            not_finite=tuple(own.get("not_finite", ())),
            data=own.get("data"),
            preprocessing=own.get("preprocessing"),
            batch_unit=own.get("batch_unit"),
            merged="merged" in own,
        )

    def redivided(self, effective: int | None, accumulate: int) -> Resumed:
        """Return it with its position in the batches of this run, if only the division of the effective batch changed.

        After the same number of steps, devices of another number have seen the same examples.

        Args:
            effective: `data.effective_batch_size` of the resumed run; None: it has none.
            accumulate: number of batches per optimizer step of the resumed run.
        """
        same = effective is not None and self.config.get("data", {}).get("effective_batch_size") == effective
        if not same or self.position.batch % self.accumulate:
            return self
        return replace(self, position=self.position.redivided(self.accumulate, accumulate), accumulate=accumulate)

    def is_of(self, folder: RunFolder) -> bool:
        """Whether it is a checkpoint of the run in this folder."""
        return RunFolder.of(self.path).path.resolve() == folder.path.resolve()

    @property
    def is_newest(self) -> bool:
        """Whether it is the newest whole checkpoint of a run folder; `best.ckpt` is, if no other is of its step."""
        if self.path.parent != RunFolder.of(self.path).checkpoints:
            return False
        newest = newest_whole_checkpoint(self.path.parent)
        return newest == self.path or (self.path.name == BEST and (newest is None or step_of(newest) < self.step))

    def stage(self, horizon: Horizon, config: Mapping[str, Any]) -> Literal["under way", "ending", "finished"]:
        """Return how far the run is: it has steps left, only its end is left (validation, test, summary), or nothing.

        Args:
            horizon: the length of the resumed run.
            config: its configuration; a run that something ended early continues if it changed.
        """
        summary = RunFolder.of(self.path).read_summary()
        status, steps = summary.get("status"), summary.get("steps", self.step)
        recorded = status in ("finished", "ended_early", "diverged") and steps == self.step
        length = length_without_cooldown(self.branches, self.plan.horizon)
        if self.step >= self.plan.horizon.steps and horizon.same_length(length):
            return "finished" if recorded else "ending"
        ended_early = self.end is not None and self.end["ended_by"] and not self.changes(config)
        return "ending" if ended_early and not recorded else "under way"

    @property
    def samples(self) -> Decimal | None:
        """Number of samples that the run has seen, over all its branches; None if the samples per step are unknown."""
        horizons = [*(branch.before for branch in self.branches), self.plan.horizon]
        ends = [*(branch.at for branch in self.branches), self.step]
        seen = Decimal(0)
        for horizon, start, end in zip(horizons, [0, *ends], ends, strict=False):
            if horizon.batch is not None:
                seen += horizon.batch.samples(end) - horizon.batch.samples(start)
            elif horizon.samples_per_step is not None:
                seen += (end - start) * Decimal(repr(horizon.samples_per_step))
            else:
                return None
        return seen

    @property
    def scheduled_settings(self) -> tuple[str, ...]:
        """Names of the settings besides the LR that the run scheduled; the checkpoint holds their scheduled values."""
        names = dict.fromkeys(setting.setting for setting, _ in self.plan.scheduled_settings)
        return tuple("betas" if BETA.fullmatch(name) else name for name in names)

    def check(self, module: nn.Module) -> None:
        """Check that the checkpoint fits the model.

        Raises:
            LrflowError: lists the tensors that differ.
        """

        checks.check_same_shapes(self.path, self.shapes, module)

    def check_config(self, config: Mapping[str, Any], find: FindTraits) -> None:
        """Check that the checkpoint holds the state that the configured optimizer needs.

        Args:
            config: configuration of the resumed run.
            find: returns the traits of an optimizer.

        Raises:
            ConfigError: lists the settings that do not fit.
        """
        if problems := checks.check_same_optimizer(self.config.get("optimizer", {}), config.get("optimizer", {}), find):
            raise ConfigError(problems)

    def reconfigured(self, config: Mapping[str, Any]) -> set[str | None]:
        """Return the routes whose optimizer is configured differently now; None is the main one."""
        before, now = (dict(one.get("optimizer", {})) for one in (self.config, config))
        former, routes = (one.pop("routes", None) or {} for one in (before, now))
        changed: set[str | None] = {route for route, own in routes.items() if own != former.get(route, own)}
        return changed | ({None} if before != now else set())

    def check_plan(self, plan: Plan, config: Mapping[str, Any]) -> None:
        """Check that equal rules still make the groups of the run, and that no group would be frozen again.

        Raises:
            ConfigError: lists the groups.
        """
        problems = checks.check_not_frozen_again(self.plan, plan, self.step)
        if all(self.config.get(section) == config.get(section) for section in ("layers", "optimizer", "model")):
            problems += checks.check_same_groups(self.plan, plan)
        if problems:
            raise ConfigError(problems)

    def changes(self, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """Return the differences of the configuration: (key, before, now), sorted by key."""
        return differences(self.config, config)

    def horizon(
        self,
        length: Horizon,
        max_epochs: int | None,
        max_steps: int | None,
        accumulate: int,
        max_samples: int | None = None,
        batch_unit: int | None = None,
    ) -> Horizon:
        """Return the length of the run, counted from the checkpoint: earlier epochs may have had another length.

        The length does not change if the run's limits and the division of its epochs are the same as before.

        Args:
            length: length of a new run.
            max_epochs: epochs of the whole run; None or -1 for no limit.
            max_steps: optimizer steps of the whole run; None or -1 for no limit.
            accumulate: number of batches per optimizer step.
            max_samples: samples of the whole run; None for no limit.
            batch_unit: samples of an accumulated batch on all devices, if steps accumulate different numbers of them.

        Raises:
            ConfigError: the checkpoint is within an epoch, and the division of epochs has changed.
        """
        if self.plan.horizon.batch is not None or length.batch is not None:
            was, within = self.plan.horizon, self.position.batch > 0
            units = _unit(was, self.batch_unit, self.accumulate), _unit(length, batch_unit, accumulate)
            ends = (max_epochs, max_steps, max_samples)
            return resumed_batches(was, length, self.step, units, within, *ends)
        each, now = self.plan.horizon.steps_per_epoch, length.steps_per_epoch
        divided_alike = (each, self.accumulate) == (now, accumulate)
        if self.position.batch and not divided_alike:
            message = (
                f"the checkpoint is within an epoch of {counted(str(each), 'step')} of "
                f"{counted(self.accumulate, 'batch')}, but an epoch now has {now} of {accumulate}: its position in the "
                "data is unknown"
            )
            hint = "resume with the run's batch size, devices and accumulation, or from a checkpoint of an epoch's end"
            raise ConfigError([Problem("resume.from", message, str(self.path), hint)])
        now_limits = {"max_epochs": max_epochs, "max_steps": max_steps, "max_samples": max_samples}
        former = self.config.get("trainer", {})
        sees_alike = max_samples is None or length.samples_per_step == self.plan.horizon.samples_per_step
        if (
            divided_alike
            and sees_alike
            and all(name in former and former[name] == limit for name, limit in now_limits.items())
        ):
            return replace(length, steps=self.plan.horizon.steps)
        limits = [] if max_steps in (None, -1) else [max_steps]
        if now is not None and max_epochs not in (None, -1):
            if divided_alike and not self.branches:
                limits.append(max_epochs * now)  # even if the data gave its epochs another number of steps
            else:
                limits.append(self.step + (max_epochs - self.position.epoch) * now - self.position.batch // accumulate)
        if max_samples is not None:
            per_step = Decimal(repr(length.samples_per_step))
            seen = self.step * per_step if self.samples is None else self.samples
            limits.append(self.step + int((max_samples - seen) / per_step))
        return replace(length, steps=max(1, min(limits)))

    def branched(
        self,
        horizon: Horizon,
        how: ContinueMode | Literal["branch"] | None,
        groups: Sequence[Group],
        schedule: Curve,
        settings: Mapping[str, Any] | None = None,
        scalars: Sequence[PlanScalar] = (),
    ) -> tuple[Branch, ...]:
        """Return the run's branches, with a new one if the run now has another length.

        Args:
            horizon: the new length of the run.
            how: how the schedule continues; `branch`: as in a new run of this length, which must have the same LRs up
                to this step; None: not chosen.
            groups: parameter groups of the model.
            schedule: the configured schedule.
            settings: optimizer settings, as in `Plan.compile`.
            scalars: the configured scalars.

        Raises:
            ConfigError: the length changed and nothing was chosen, with the LR of each choice; or `branch` was chosen
                and the LRs differ.
        """
        if how == "branch":
            if problems := checks.check_same_past(
                self.plan, compile_branched(groups, schedule, horizon, (), settings, scalars), self.step
            ):
                raise ConfigError(problems)
            return ()
        if self._as_long_as(horizon, [*(group.curve(schedule) for group in groups), *(one.curve for one in scalars)]):
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
                continue  # this choice would raise
            now, end = _rates(plan, self.step), _rates(plan, horizon.steps - 1)
            offers.append(f"resume.horizon={choice}: LR {now} now, {end} at the end")
        was = self.plan.horizon
        change = f"the run was {counted(was.steps, 'step')} long and is {horizon.steps} now"
        if was.batch != horizon.batch and was.steps == horizon.steps:
            change = "the batch of later steps is another now"
        elif was.same_length(horizon):
            saw = counted(f"{was.samples_per_step:g}", "sample")
            change = f"a step saw {saw} and sees {horizon.samples_per_step:g} now"
        elif was.steps == horizon.steps:
            epoch = counted(str(was.steps_per_epoch), "step")
            change = f"an epoch was {epoch} long and is {horizon.steps_per_epoch} now"
        message = f"{change}: choose the LR from here on"
        raise ConfigError([Problem("resume.horizon", message, None, "\n".join(offers))])

    def _as_long_as(self, horizon: Horizon, curves: Sequence[Curve]) -> bool:
        """Whether the length of the run is unchanged, as far as its schedules depend on it."""
        was, seen = self.plan.horizon, {self.plan.horizon.samples_per_step, horizon.samples_per_step}
        counts_samples = self.plan.in_samples or any(duration.unit == "samples" for duration in durations_in(curves))
        if was.batch is not None or horizon.batch is not None:
            counts = counts_samples or any(duration.unit == "epochs" for duration in durations_in(curves))
            return was.steps == horizon.steps and (was.batch == horizon.batch or not counts)
        return was.same_length(horizon) and (len(seen - {None}) < 2 or not counts_samples)

    def describe(self, plan: Plan, config: Mapping[str, Any], groups: Sequence[Group] = ()) -> str:
        """Return the lines that report a resumed run: from which step, with which LR, and what changed."""
        lines = [f"resumed from {self.path} at step {self.step} of {plan.horizon.steps}"]
        if plan.fingerprint != self.plan.fingerprint:
            before, now = _rates(self.plan, self.step), _rates(plan, self.step)
            change = f"is {now} as before" if before == now else f"was to be {before}, is {now}"
            lines.append(f"  the plan changed: LR at step {self.step} {change}")
        for key, was, now_is in self.changes(config):
            lines.append(f"  {key}: {was} -> {now_is}")
        trained = [(name, group.route) for group in groups if not group.frozen for name, _ in group.parameters]
        if without_state := [name for name, route in trained if self.routes.get(name, route) != route]:
            lines.append(f"  without state, because their optimizer changed: {joined(without_state, 7)}")
        return "\n".join(lines)


def _unit(horizon: Horizon, changing: int | None, accumulate: int) -> int | None:
    """Return the samples of an accumulated batch on all devices."""
    same = None if horizon.samples_per_step is None else int(horizon.samples_per_step) // accumulate
    return changing if horizon.batch is not None else same


def _rates(plan: Plan, step: int) -> str:
    return ", ".join(f"{rate:.3g}" for rate in dict.fromkeys(plan.lr(step).tolist()))

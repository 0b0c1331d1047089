"""Schedule × groups × horizon, compiled into a plan; and its checks, table, picture, files and comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrflow.errors import ConfigError, Problem
from lrflow.plan.base import PlanBase, PlanGroup, compile_settings
from lrflow.plan.checks import Check, check
from lrflow.plan.diff import PlanDiff
from lrflow.plan.figure import plot
from lrflow.plan.serialization import groups_and_horizon, write_files
from lrflow.plan.table import PlanTable
from lrflow.schedules import Curve, Horizon

if TYPE_CHECKING:
    from lrflow.layers import Group


@dataclass(frozen=True)
class Plan(PlanBase):
    """The learning rate of every group at every step: a pure function, known before the run starts.

    Args:
        groups: all groups of the model, frozen ones too.
        horizon: how long the run is, in optimizer steps.
    """

    @classmethod
    def compile(
        cls, groups: Sequence[Group], schedule: Curve, horizon: Horizon, settings: Mapping[str, Any] | None = None
    ) -> Plan:
        """The plan of a run over `groups` that follow `schedule`, or their own where they bring one.

        Args:
            groups: what `lrflow.layers.resolve` returned.
            schedule: multiplier of every group's peak LR.
            horizon: how long the run is.
            settings: of the optimizer, as its config has them, with its defaults: what `schedule.also` starts from.

        Raises:
            ConfigError: a schedule that cannot be counted in steps of this horizon, or one that also moves a setting
                which the optimizer does not have.
        """
        also = compile_settings(groups, schedule, settings or {})
        planned = [
            PlanGroup(
                name=group.name,
                lr=float(group.lr),
                scale=float(group.scale),
                weight_decay=None if group.weight_decay is None else float(group.weight_decay),
                schedule=group.curve(schedule).split()[0],
                tensors=group.tensors,
                parameters=group.numel,
                frozen=group.frozen,
                route=group.route,
                also=moved,
                depth=group.depth,
            )
            for group, moved in zip(groups, also, strict=True)
        ]
        plan = cls(tuple(planned), horizon)
        every = [*(curve for curve, _ in plan.curves), *(setting.curve for setting, _ in plan.moved)]
        if problems := [problem for curve in every for problem in _uncountable(curve, horizon)]:
            raise ConfigError(problems)
        return plan

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], resolve: Callable[[str], type] | None = None) -> Plan:
        """The plan that `to_dict` or a plan.json describes.

        Args:
            data: content of plan.json; keys that are not the plan's are passed over.
            resolve: from the dotted path of a `_target_` to its class, for schedules and shapes of one's own;
                by default lrflow's schedules only. It raises ValueError for what it does not know.

        Raises:
            ConfigError: the data is not a plan's; lists every problem.
        """
        groups, horizon = groups_and_horizon(data, resolve)
        return cls(tuple(groups), horizon)

    def check(self) -> list[Check]:
        """What can be known of the LRs before the run: peak, floor, jumps, warmup, movement."""
        return check(self)

    def table(self) -> PlanTable:
        """The plan for a terminal: groups, LRs at the landmarks, checks; print it with rich."""
        return PlanTable(self)

    def plot(self, path: str | Path) -> Path:
        """Draw the LR of every group over the run into a PNG (or what the suffix says) and return its path."""
        return plot(self, Path(path))

    def write(self, folder: str | Path, beside: Mapping[str, Any] | None = None, picture: bool = True) -> list[Path]:
        """Write plan.png, plan.csv and plan.json into `folder` (made if missing) and return their paths.

        Args:
            folder: where to.
            beside: further content of plan.json that is no part of the plan, such as how its peak came about.
            picture: whether to draw plan.png.
        """
        return write_files(self, Path(folder), beside or {}, picture)

    def diff(self, against: PlanBase) -> PlanDiff:
        """What changed from the plan `against` to this one: horizon, groups, settings and LRs."""
        return PlanDiff(against, self)


def _uncountable(curve: Curve, horizon: Horizon) -> list[Problem]:
    """Why the curve has no value on this horizon, if it has none: an epoch of unknown length."""
    try:
        curve(0, horizon)
    except ValueError as error:
        return curve.check(horizon) or [Problem(curve.key, str(error))]
    return []

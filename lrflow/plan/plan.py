"""`Plan`: a schedule and groups compiled for a horizon, with its checks, table, figure, files and comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrflow.errors import ConfigError, Problem
from lrflow.plan.checks import Check, check
from lrflow.plan.diff import PlanDiff
from lrflow.plan.figure import as_html, plot
from lrflow.plan.scalars import PlanScalar
from lrflow.plan.serialization import parts_of, write_files
from lrflow.plan.table import PlanTable
from lrflow.plan.values import PlanBase, PlanGroup, compile_settings, curves_of
from lrflow.schedules import Curve, Horizon

if TYPE_CHECKING:
    from lrflow.layers import Group


@dataclass(frozen=True)
class Plan(PlanBase):
    """The learning rate of every group at every step: a pure function, computed before the run starts.

    Args:
        groups: all groups of the model, frozen ones too.
        horizon: how long the run is, in optimizer steps.
        scalars: further numbers that are scheduled over the run, for the module to read.
    """

    @classmethod
    def compile(
        cls,
        groups: Sequence[Group],
        schedule: Curve,
        horizon: Horizon,
        settings: Mapping[str, Any] | None = None,
        scalars: Sequence[PlanScalar] = (),
    ) -> Plan:
        """Compile the plan of a run whose `groups` follow `schedule`, or their own schedules if they have one.

        Args:
            groups: as returned by `lrflow.layers.resolve`.
            schedule: multiplier of every group's peak LR.
            horizon: how long the run is.
            settings: of the optimizer, as in its config, with its defaults; `schedule.also` is relative to them.
            scalars: further numbers that are scheduled over the run.

        Raises:
            ConfigError: a schedule that cannot be converted to steps of this horizon, a floor above the peak LR of a
                group, or a scheduled setting that the optimizer does not have.
        """
        curves = curves_of(groups, schedule)
        also = compile_settings(groups, curves, settings or {})
        planned = [
            PlanGroup(
                name=group.name,
                lr=float(group.lr),
                scale=float(group.scale),
                weight_decay=None if group.weight_decay is None else float(group.weight_decay),
                schedule=curve.split_settings()[0],
                tensors=group.tensors,
                parameters=group.numel,
                frozen=group.frozen,
                route=group.route,
                also=moved,
                depth=group.depth,
                settings={name: list(own) if isinstance(own, tuple) else own for name, own in group.settings},
            )
            for group, curve, moved in zip(groups, curves, also, strict=True)
        ]
        plan = cls(tuple(planned), horizon, tuple(scalars))
        every = [*(curve for curve, _ in plan.curves), *(setting.curve for setting, _ in plan.scheduled_settings)]
        problems = [problem for curve in every for problem in _uncountable(curve, horizon)]
        problems += [problem for one in scalars for problem in _uncountable(one.curve, horizon, one.key)]
        if problems:
            raise ConfigError(problems)
        return plan

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], resolve: Callable[[str], type] | None = None) -> Plan:
        """Return the plan that `to_dict` or a plan.json describes.

        Args:
            data: content of plan.json; other keys are ignored.
            resolve: maps the dotted path of a `_target_` to its class, to allow a user's own schedules and shapes; by
                default lrflow's schedules only. It raises ValueError for a class that is not allowed.

        Raises:
            ConfigError: the data describe no plan; lists every problem.
        """
        return cls(*parts_of(data, resolve))

    def check(self) -> list[Check]:
        """Check the LRs before the run: peak, floor, jumps, warmup, trained groups."""
        return check(self)

    def table(self) -> PlanTable:
        """Return the plan as a table of groups, LRs at the landmarks and checks; print it with rich."""
        return PlanTable(self)

    def plot(self, path: str | Path) -> Path:
        """Draw the LR of every group over the run into a PNG (or another format, by the suffix) and return its path."""
        return plot(self, Path(path))

    def _repr_html_(self) -> str:
        """Return the table and the figure, which a notebook shows."""
        return as_html(self)

    def write(self, folder: str | Path, extra: Mapping[str, Any] | None = None, picture: bool = True) -> list[Path]:
        """Write plan.png, plan.csv and plan.json into `folder` (created if missing) and return their paths.

        Args:
            folder: the folder to write into.
            extra: further content of plan.json, such as how its peak LR was chosen.
            picture: whether to draw plan.png.
        """
        return write_files(self, Path(folder), extra or {}, picture)

    def diff(self, against: PlanBase) -> PlanDiff:
        """Compare this plan with an earlier one, `against`: horizon, groups, settings and LRs."""
        return PlanDiff(against, self)


def _uncountable(curve: Curve, horizon: Horizon, key: str | None = None) -> list[Problem]:
    """Return why the curve cannot be evaluated on this horizon, such as an epoch of unknown length."""
    try:
        curve(0, horizon)
    except ValueError as error:
        return curve.check(horizon, key) or [Problem(key or curve.key, str(error))]
    return []

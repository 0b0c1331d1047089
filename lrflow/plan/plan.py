"""Schedule × groups × horizon, compiled: the learning rate of every group at every step of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrflow.errors import ConfigError, Problem
from lrflow.plan import checks, diff, files, picture, spec, table, view
from lrflow.plan.group import PlanGroup
from lrflow.plan.settings import PlanSetting, Values, compile_settings, distinct
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.durations import durations_in
from lrflow.schedules.specs import to_spec

if TYPE_CHECKING:
    from lrflow.layers import Group

Rates = npt.NDArray[np.float64]
CHUNK = 1 << 14  # steps evaluated at once: what a schedule computes in between then stays in the processor's cache


@dataclass(frozen=True)
class Plan:
    """The learning rate of every group at every step: a pure function, known before the run starts.

    Args:
        groups: all groups of the model, frozen ones too.
        horizon: how long the run is, in optimizer steps.
    """

    groups: tuple[PlanGroup, ...]
    horizon: Horizon

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

    @cached_property
    def trainable(self) -> tuple[PlanGroup, ...]:
        """The groups that are trained, in order: the columns of `lr`."""
        return tuple(group for group in self.groups if not group.frozen)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the trainable groups, in order: the columns of `lr`."""
        return tuple(group.name for group in self.trainable)

    @cached_property
    def starts(self) -> dict[str, int]:
        """The first step of each trainable group, by its name: until then it is frozen."""
        return {group.name: group.schedule.starts(self.horizon) for group in self.trainable}

    @cached_property
    def curves(self) -> tuple[tuple[Curve, tuple[int, ...]], ...]:
        """Each distinct schedule once, with the columns that follow it."""
        curves: dict[str, tuple[Curve, list[int]]] = {}
        for column, group in enumerate(self.trainable):
            curves.setdefault(spec.canonical(to_spec(group.schedule)), (group.schedule, []))[1].append(column)
        return tuple((schedule, tuple(columns)) for schedule, columns in curves.values())

    def lr(self, step: npt.ArrayLike) -> Rates:
        """The planned LR at `step`, the same bits however it is reached.

        Args:
            step: optimizer steps done before this one (0 is the first step); a scalar or an array [n].

        Returns:
            float64 [groups] for a scalar, [n, groups] for an array, columns as in `names`.
        """
        steps = np.atleast_1d(step)
        # Filled column by column, so laid out with each column contiguous.
        rates = np.empty((steps.size, len(self.trainable)), order="F")
        for start in range(0, steps.size, CHUNK):
            rows = slice(start, start + CHUNK)
            for schedule, columns in self.curves:
                multiplier = schedule(steps[rows], self.horizon)
                for column in columns:
                    np.multiply(multiplier, self.trainable[column].lr, out=rates[rows, column])
        return rates if np.ndim(step) else rates[0]

    @cached_property
    def in_samples(self) -> bool:
        """Whether a duration of its curves is in samples, so that what a step sees moves the LR."""
        curves = [(group.schedule, *(setting.curve for setting in group.also)) for group in self.groups]
        return any(duration.unit == "samples" for duration in durations_in(curves))

    @cached_property
    def moved(self) -> tuple[tuple[PlanSetting, tuple[int, ...]], ...]:
        """Each setting of the optimizer that moves besides the LR, with the columns of the groups where it does so.

        One that moves otherwise in some groups stands there once for each way.
        """
        return tuple(distinct(self.trainable))

    @cached_property
    def also(self) -> tuple[str, ...]:
        """The names of the settings that move besides the LR."""
        return tuple(dict.fromkeys(setting.name for setting, _ in self.moved))

    def setting(self, name: str, step: npt.ArrayLike) -> Values:
        """The planned value of a setting at `step`.

        Args:
            name: one of `also`.
            step: optimizer steps done before this one; a scalar or an array [n].

        Returns:
            float64 [groups] for a scalar, [n, groups] for an array, columns as in `names`; NaN where it does not move.
        """
        steps = np.atleast_1d(step)
        values = np.full((steps.size, len(self.trainable)), np.nan, order="F")
        for setting, columns in self.moved:
            if setting.name == name:
                values[:, columns] = setting(steps, self.horizon)[:, None]
        return values if np.ndim(step) else values[0]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the plan's canonical JSON, in hex: equal for equal plans, on every machine."""
        return spec.fingerprint(spec.to_dict(self, told=False))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data: numbers, strings, lists and dicts; `from_dict` reads it back."""
        return spec.to_dict(self)

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
        groups, horizon = spec.read(data, resolve)
        return cls(tuple(groups), horizon)

    def check(self) -> list[checks.Check]:
        """What can be known of the LRs before the run: peak, floor, jumps, warmup, movement."""
        return checks.check(self)

    def landmarks(self) -> dict[int, str]:
        """The steps worth looking at, in order, each with why: start, warmup's end, quarters, jumps, last."""
        return view.landmarks(self)

    def table(self) -> table.PlanTable:
        """The plan for a terminal: groups, LRs at the landmarks, checks; print it with rich."""
        return table.PlanTable(self)

    def plot(self, path: str | Path) -> Path:
        """Draw the LR of every group over the run into a PNG (or what the suffix says) and return its path."""
        return picture.plot(self, Path(path))

    def write(self, folder: str | Path, beside: Mapping[str, Any] | None = None, picture: bool = True) -> list[Path]:
        """Write plan.png, plan.csv and plan.json into `folder` (made if missing) and return their paths.

        Args:
            folder: where to.
            beside: what plan.json tells besides the plan, such as how its peak came about; no part of the plan.
            picture: whether to draw plan.png.
        """
        return files.write(self, Path(folder), beside or {}, picture)

    def diff(self, against: Plan) -> diff.PlanDiff:
        """What changed from the plan `against` to this one: horizon, groups, settings and LRs."""
        return diff.PlanDiff(against, self)


def _uncountable(curve: Curve, horizon: Horizon) -> list[Problem]:
    """Why the curve has no value on this horizon, if it has none: an epoch of unknown length."""
    try:
        curve(0, horizon)
    except ValueError as error:
        return curve.check(horizon) or [Problem(curve.key, str(error))]
    return []

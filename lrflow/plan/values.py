"""The values of a plan: the LR of every group at every step of a run, and the optimizer settings scheduled with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.plan.scalars import PlanScalar, values_of
from lrflow.schedules import Curve, Horizon, ScheduledSetting
from lrflow.schedules.batch_schedule import BatchScaled
from lrflow.schedules.curve import BETA, highest_settings, numeric_settings
from lrflow.schedules.serialization import to_spec
from lrflow.schedules.time import Floats, durations_in

if TYPE_CHECKING:
    from lrflow.layers import Group

CACHE_CHUNK = 1 << 14  # steps evaluated at once: the intermediate arrays of a schedule then fit the processor's cache
BATCH = "batch_size"
"""Column with the samples of a step, where the batch changes over the run."""

VERSION = 1  # of the layout of `PlanBase.to_dict`


@dataclass(frozen=True, kw_only=True)
class PlanSetting(PlanScalar):
    """An optimizer setting of a group that is scheduled over the run.

    Args:
        setting: the optimizer's name of it: `momentum` is `beta1` if the optimizer has no momentum.
    """

    setting: str

    @property
    def key(self) -> str:
        """Its key in the config."""
        return f"schedule.also.{self.name}"

    @property
    def title(self) -> str:
        """Its name, followed by the optimizer's name of it if that differs."""
        name = super().title
        return name if self.name == self.setting else f"{name} ({self.setting})"


@dataclass(frozen=True)
class PlanGroup:
    """A named group of parameters and its LR.

    Args:
        name: the name of its layer rule.
        lr: peak LR, absolute.
        scale: `lr` over the peak LR of the group's optimizer.
        weight_decay: the group's own; None: the optimizer's.
        schedule: the multiplier of the peak over the run.
        tensors: number of parameter tensors.
        parameters: number of elements of these tensors.
        frozen: whether the group is not trained.
        route: the route of its optimizer; None: the main one.
        also: scheduled settings of its optimizer.
        depth: number of layers below its layer; None: it belongs to no layer.
        settings: other settings of its optimizer that are its own.
    """

    name: str
    lr: float
    scale: float
    weight_decay: float | None
    schedule: Curve
    tensors: int
    parameters: int
    frozen: bool = False
    route: str | None = None
    also: tuple[PlanSetting, ...] = ()
    depth: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanBase:
    """The groups of a plan and their LRs, a pure function of the step; `Plan` adds checks, tables and files.

    Args:
        groups: all groups of the model, frozen ones too.
        horizon: how long the run is, in optimizer steps.
        scalars: further numbers that are scheduled over the run, for the module to read.
    """

    groups: tuple[PlanGroup, ...]
    horizon: Horizon
    scalars: tuple[PlanScalar, ...] = ()

    @cached_property
    def trainable(self) -> tuple[PlanGroup, ...]:
        """The groups that are trained, in order; they are the columns of `lr`."""
        return tuple(group for group in self.groups if not group.frozen)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the trainable groups, in the order of the columns of `lr`."""
        return tuple(group.name for group in self.trainable)

    @cached_property
    def first_steps(self) -> dict[str, int]:
        """The first step at which each trainable group trains, by its name; it is frozen before."""
        return {group.name: group.schedule.first_step(self.horizon) for group in self.trainable}

    @cached_property
    def frozen_from(self) -> dict[str, int]:
        """The first step at which a group that is frozen during the run no longer trains, by its name."""
        stops = {group.name: group.schedule.frozen_from(self.horizon) for group in self.trainable}
        return {name: stop for name, stop in stops.items() if stop is not None}

    @cached_property
    def curves(self) -> tuple[tuple[Curve, tuple[int, ...]], ...]:
        """Each distinct schedule once, with the columns that follow it."""
        curves: dict[str, tuple[Curve, list[int]]] = {}
        for column, group in enumerate(self.trainable):
            curves.setdefault(canonical_json(to_spec(group.schedule)), (group.schedule, []))[1].append(column)
        return tuple((schedule, tuple(columns)) for schedule, columns in curves.values())

    def lr(self, step: npt.ArrayLike) -> Floats:
        """Return the planned LR at `step`; the same bits for a scalar, an array and any part of one.

        Args:
            step: optimizer steps done before this one (0 is the first step); a scalar or an array [n].

        Returns:
            float64 [groups] for a scalar, [n, groups] for an array, columns as in `names`.
        """
        steps = np.atleast_1d(step)
        # Each column is filled at once, so columns are contiguous in memory.
        rates = np.empty((steps.size, len(self.trainable)), order="F")
        for start in range(0, steps.size, CACHE_CHUNK):
            rows = slice(start, start + CACHE_CHUNK)
            for schedule, columns in self.curves:
                multiplier = schedule(steps[rows], self.horizon)
                for column in columns:
                    np.multiply(multiplier, self.trainable[column].lr, out=rates[rows, column])
        return rates if np.ndim(step) else rates[0]

    @cached_property
    def in_samples(self) -> bool:
        """Whether any duration is in samples, so that the LR depends on the samples per step."""
        curves = [(group.schedule, *(setting.curve for setting in group.also)) for group in self.groups]
        curves.append(tuple(scalar.curve for scalar in self.scalars))
        return any(duration.unit == "samples" for duration in durations_in(curves))

    @cached_property
    def scheduled_settings(self) -> tuple[tuple[PlanSetting, tuple[int, ...]], ...]:
        """The scheduled settings, each with the columns of the groups that it applies to.

        A setting whose values differ between groups is listed once for each variant.
        """
        return tuple(distinct_settings(self.trainable))

    @cached_property
    def also(self) -> tuple[str, ...]:
        """The names of the scheduled settings."""
        return tuple(dict.fromkeys(setting.name for setting, _ in self.scheduled_settings))

    def setting(self, name: str, step: npt.ArrayLike) -> Floats:
        """Return the planned value of a scheduled setting at `step`.

        Args:
            name: one of `also`.
            step: optimizer steps done before this one; a scalar or an array [n].

        Returns:
            float64 [groups] for a scalar, [n, groups] for an array, columns as in `names`; NaN for groups without it.
        """
        steps = np.atleast_1d(step)
        values = np.full((steps.size, len(self.trainable)), np.nan, order="F")
        for setting, columns in self.scheduled_settings:
            if setting.name == name:
                values[:, columns] = setting(steps, self.horizon)[:, None]
        return values if np.ndim(step) else values[0]

    def scalar_values(self, step: npt.ArrayLike) -> Floats:
        """Return the planned values of the scalars at `step`.

        Returns:
            float64 [scalars] for a scalar, [n, scalars] for an array, columns as in `scalars`.
        """
        return values_of(self.scalars, step, self.horizon)

    def columns_of(self, steps: Any) -> dict[str, Floats]:
        """Return what steps [n] have besides LRs and settings, by column: the scalars, and a batch that changes."""
        found = {one.column: one(steps, self.horizon) for one in self.scalars}
        return found | ({BATCH: self.horizon.batch.sizes_at(steps)} if self.horizon.batch else {})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the plan's canonical JSON, in hex; equal plans have equal fingerprints on every machine."""
        return hashlib.sha256(canonical_json(self.to_dict(complete=False)).encode()).hexdigest()

    def to_dict(self, complete: bool = True) -> dict[str, Any]:
        """Return the plan as plain data: numbers, strings, lists and dicts; `Plan.from_dict` reads it back.

        Args:
            complete: include the fields that do not change any LR, which the fingerprint leaves out.
        """
        horizon = self.horizon.to_dict()
        if not (complete or self.in_samples):
            horizon.pop("samples_per_step", None)
        return {
            "version": VERSION,
            "horizon": horizon,
            "groups": [_described(group, complete) for group in self.groups],
            **({"scalars": [_scalar(scalar) for scalar in self.scalars]} if self.scalars else {}),
        }


def peak_step(rates: Floats) -> int:
    """Return the first index at which LRs are at their highest, to 0.1%: the warmup has ended there.

    Args:
        rates: LRs, not all 0; [n].
    """
    return int(np.argmax(rates >= 0.999 * rates.max()))


def curves_of(groups: Sequence[Group], schedule: Curve) -> list[Curve]:
    """Return the curve of each group, in which floors given as an LR are fractions of the group's own peak.

    Args:
        groups: of the model.
        schedule: of every group that has none of its own.

    Raises:
        ConfigError: such a floor is above the peak of a group that trains.
    """
    curves: list[Curve] = []
    problems: dict[str, Problem] = {}
    for group in groups:
        curve = group.curve(schedule)
        try:
            curve = curve if group.frozen else curve.of_peak(float(group.lr))
            curves.append(BatchScaled(curve, *group.batch) if group.batch else curve)
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem.key, replace(problem, message=f"{problem.message}, of {group.name}"))
    if problems:
        raise ConfigError(problems.values())
    return curves


def compile_settings(
    groups: Sequence[Group], curves: Sequence[Curve], settings: Mapping[str, Any]
) -> list[tuple[PlanSetting, ...]]:
    """Return the scheduled settings of each group.

    Args:
        groups: of the model; frozen ones have no scheduled settings.
        curves: of the groups.
        settings: of the main optimizer, as in a config, with its defaults; those of the others under `routes`.

    Raises:
        ConfigError: a setting that no optimizer of the groups has or uses, or that is scheduled under two names.
    """
    following: list[tuple[ScheduledSetting, list[tuple[int, Curve]]]] = []
    for index, group in enumerate(groups):
        for entry, curve in () if group.frozen else curves[index].split_settings()[1]:
            members = next((members for other, members in following if other == entry), None)
            if members is None:
                following.append((entry, members := []))
            members.append((index, curve))
    moved: list[list[PlanSetting]] = [[] for _ in groups]
    problems: list[Problem] = []
    for entry, members in following:
        key = f"schedule.also.{entry.name}"
        known = [_settings_of(groups[index], settings) for index, _ in members]
        most = highest_settings(own for own, _ in known)
        if found := entry.check(most, key):
            problems += found
            continue
        setting = entry.setting(most)
        for (index, curve), (own, usual) in zip(members, known, strict=True):
            # A group without the setting belongs to another optimizer; a setting of 0 is switched off.
            if setting is None or not own.get(setting):
                continue
            reference = usual[setting] or own[setting]
            ratio = own[setting] / reference
            high = reference if entry.high is None else entry.high
            planned = PlanSetting(entry.name, curve, entry.low * ratio, high * ratio, entry.inverse, setting=setting)
            if other := next((one for one in moved[index] if one.setting == setting), None):
                problems.append(Problem(key, f"is {setting}, which {other.name} schedules already"))
            elif BETA.fullmatch(setting) and planned.high >= 1:
                problems.append(Problem(f"{key}.high", "expected a number below 1", planned.high))
            moved[index].append(planned)
    if problems:
        raise ConfigError({problem.key: problem for problem in problems}.values())
    return [tuple(each) for each in moved]


def _settings_of(group: Group, settings: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the settings of a group, and those of its optimizer."""
    usual = numeric_settings(settings if group.route is None else settings.get("routes", {}).get(group.route, {}))
    decay = {} if group.weight_decay is None else {"weight_decay": float(group.weight_decay)}
    return usual | decay | numeric_settings(dict(group.settings)), {**decay, **usual}


def distinct_settings(groups: Sequence[PlanGroup]) -> list[tuple[PlanSetting, tuple[int, ...]]]:
    """Return each variant of a scheduled setting once, with the columns of the groups that it applies to."""
    found: list[tuple[PlanSetting, list[int]]] = []
    for column, group in enumerate(groups):
        for setting in group.also:
            columns = next((columns for other, columns in found if other == setting), None)
            if columns is None:
                found.append((setting, columns := []))
            columns.append(column)
    return [(setting, tuple(columns)) for setting, columns in found]


def canonical_json(data: object) -> str:
    """Return canonical JSON: equal data give equal text on every machine (floats by their shortest exact repr)."""
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain_number)
    except (TypeError, ValueError) as error:
        raise LrflowError(f"a plan holds finite numbers, strings, lists and mappings only: {error} ({data})") from error


def plain_number(value: object) -> object:
    """Convert a numpy number for JSON; the `default` of `json.dumps`."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no plain data")


def _scalar(scalar: PlanScalar) -> dict[str, Any]:
    return vars(scalar) | {"curve": to_spec(scalar.curve)}


def _described(group: PlanGroup, complete: bool) -> dict[str, Any]:
    described = {one.name: getattr(group, one.name) for one in fields(group)}
    if group.depth is None or not complete:
        del described["depth"]
    if not group.settings:
        del described["settings"]
    if group.route is None:
        del described["route"]  # plans without routes keep the fingerprints from before routes existed
    del described["also"]
    if group.also:
        described["also"] = [_scalar(setting) for setting in group.also]
    return described | {"schedule": to_spec(group.schedule)}

"""The numbers of a plan: the learning rate of every group at every step of a run, and what else moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.schedules import Continued, Curve, Horizon, Schedule, ScheduledSetting
from lrflow.schedules._arguments import under
from lrflow.schedules.base import BETA, highest_settings, numeric_settings
from lrflow.schedules.serialization import to_spec
from lrflow.schedules.time import durations_in

if TYPE_CHECKING:
    from lrflow.layers import Group

Rates = npt.NDArray[np.float64]
Values = npt.NDArray[np.float64]
CHUNK = 1 << 14  # steps evaluated at once: what a schedule computes in between then stays in the processor's cache
VERSION = 1  # of the layout of `PlanBase.to_dict`


@dataclass(frozen=True)
class PlanSetting:
    """A setting of a group's optimizer that moves over the run.

    Args:
        name: as `schedule.also` has it.
        setting: which of the optimizer's settings that is: where it has no momentum, `momentum` is its `beta1`.
        curve: from step to the share of the way between the two values.
        low: where the curve is 0.
        high: where it is 1.
        inverse: the other way round.
    """

    name: str
    setting: str
    curve: Curve
    low: float
    high: float
    inverse: bool = False

    def __call__(self, step: npt.ArrayLike, horizon: Horizon) -> Values:
        """The values at `step`, float64 of the same shape; never outside [low, high]."""
        way = self.curve(step, horizon)
        if self.inverse:
            way = 1.0 - way
        return np.clip(self.low * (1.0 - way) + self.high * way, self.low, self.high)

    def check(self, horizon: Horizon) -> list[Problem]:
        """What of its curve does not fit into the run; how a run goes on that was resumed is told of the LR."""
        curve = self.curve
        while isinstance(curve, Continued):
            horizon = horizon if curve.how == "rescale" else curve.before
            curve = curve.schedule
        found = curve.misfits(horizon) if isinstance(curve, Schedule) else []
        return under(f"schedule.also.{self.name}", found)

    @property
    def title(self) -> str:
        """Its name, with the setting that it stands for where that is another."""
        name = self.name.replace("_", " ")
        return name if self.name == self.setting else f"{name} ({self.setting})"


@dataclass(frozen=True)
class PlanGroup:
    """One named group of parameters and the LR it is to be trained with.

    Args:
        name: as in the layer rules.
        lr: peak LR, absolute.
        scale: peak LR over the peak LR of the group's optimizer.
        weight_decay: the group's own; None: the optimizer's.
        schedule: multiplier of the peak over the run.
        tensors: how many parameter tensors the group holds.
        parameters: how many numbers they hold.
        frozen: whether the group is left out of training.
        route: the optimizer that the group goes to; None: the main one.
        also: settings of the optimizer that move besides the LR.
        depth: how many layers lie below its layer; None: it is no layer's.
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


@dataclass(frozen=True)
class PlanBase:
    """What a plan knows: the LR of every group at every step, a pure function; `Plan` adds what is done with it.

    Args:
        groups: all groups of the model, frozen ones too.
        horizon: how long the run is, in optimizer steps.
    """

    groups: tuple[PlanGroup, ...]
    horizon: Horizon

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
            curves.setdefault(canonical(to_spec(group.schedule)), (group.schedule, []))[1].append(column)
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
        return hashlib.sha256(canonical(self.to_dict(complete=False)).encode()).hexdigest()

    def to_dict(self, complete: bool = True) -> dict[str, Any]:
        """The plan as plain data: numbers, strings, lists and dicts; `Plan.from_dict` reads it back.

        Args:
            complete: with what moves no LR, which the fingerprint leaves out.
        """
        horizon = asdict(self.horizon)
        if self.horizon.samples_per_step is None or not (complete or self.in_samples):
            del horizon["samples_per_step"]
        return {
            "version": VERSION,
            "horizon": horizon,
            "groups": [_described(group, complete) for group in self.groups],
        }


def compile_settings(
    groups: Sequence[Group], schedule: Curve, settings: Mapping[str, Any]
) -> list[tuple[PlanSetting, ...]]:
    """What moves besides the LR in each group.

    Args:
        groups: of the model; frozen ones have nothing.
        schedule: of every group that brings none of its own.
        settings: of the optimizer, as a config has them, its defaults among them; under `routes` those of the others.

    Raises:
        ConfigError: a setting that none of the groups' optimizers has or uses, or two names for one.
    """
    following: list[tuple[ScheduledSetting, list[tuple[int, Curve]]]] = []
    for index, group in enumerate(groups):
        for entry, curve in () if group.frozen else group.curve(schedule).split()[1]:
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
            # One that lacks the setting is of another route; one whose setting is 0 has it switched off.
            if setting is None or not own.get(setting):
                continue
            reference = usual[setting] or own[setting]
            ratio = own[setting] / reference
            high = reference if entry.high is None else entry.high
            planned = PlanSetting(entry.name, setting, curve, entry.low * ratio, high * ratio, entry.inverse)
            if other := next((one for one in moved[index] if one.setting == setting), None):
                problems.append(Problem(key, f"is {setting}, which {other.name} moves already"))
            elif BETA.fullmatch(setting) and planned.high >= 1:
                problems.append(Problem(f"{key}.high", "expected a number below 1", planned.high))
            moved[index].append(planned)
    if problems:
        raise ConfigError({problem.key: problem for problem in problems}.values())
    return [tuple(each) for each in moved]


def _settings_of(group: Group, settings: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The settings of a group, and those of its optimizer."""
    usual = numeric_settings(settings if group.route is None else settings.get("routes", {}).get(group.route, {}))
    decay = {} if group.weight_decay is None else {"weight_decay": float(group.weight_decay)}
    return usual | decay, {**decay, **usual}


def distinct(groups: Sequence[PlanGroup]) -> list[tuple[PlanSetting, tuple[int, ...]]]:
    """Each setting that moves, once for every way in which it does, with the columns of the groups where it does so."""
    found: list[tuple[PlanSetting, list[int]]] = []
    for column, group in enumerate(groups):
        for setting in group.also:
            columns = next((columns for other, columns in found if other == setting), None)
            if columns is None:
                found.append((setting, columns := []))
            columns.append(column)
    return [(setting, tuple(columns)) for setting, columns in found]


def canonical(data: object) -> str:
    """JSON with one spelling: equal data gives equal text on every machine (floats by their shortest exact repr)."""
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain)
    except (TypeError, ValueError) as error:
        raise LrflowError(f"a plan holds finite numbers, strings, lists and mappings only: {error} ({data})") from error


def plain(value: object) -> object:
    """What JSON writes for a number of numpy's; its `default`."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no plain data")


def _described(group: PlanGroup, complete: bool) -> dict[str, Any]:
    described = {field.name: getattr(group, field.name) for field in fields(group)}
    if group.depth is None or not complete:
        del described["depth"]
    if group.route is None:
        del described["route"]  # plans without routes keep the fingerprint that they had before there were any
    del described["also"]
    if group.also:
        described["also"] = [vars(setting) | {"curve": to_spec(setting.curve)} for setting in group.also]
    return described | {"schedule": to_spec(group.schedule)}

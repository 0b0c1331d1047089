"""Settings of the optimizer that a plan moves besides the LR: which of them, in which groups, between which values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrflow.errors import ConfigError, Problem
from lrflow.schedules import Continued, Curve, Horizon, Schedule, ScheduledSetting
from lrflow.schedules.curve import BETA, highest_settings, numeric_settings
from lrflow.schedules.fields import under

if TYPE_CHECKING:
    from lrflow.layers import Group
    from lrflow.plan.group import PlanGroup

Values = npt.NDArray[np.float64]


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

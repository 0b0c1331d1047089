"""Reads a plan from plain data, such as the content of plan.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.plan.base import VERSION, PlanGroup, PlanSetting
from lrflow.schedules import Horizon
from lrflow.schedules.specs import from_spec

Resolve = Callable[[str], type]


def groups_and_horizon(data: Mapping[str, Any], resolve: Resolve | None = None) -> tuple[list[PlanGroup], Horizon]:
    """The groups and the horizon that `PlanBase.to_dict` described.

    Args:
        data: content of plan.json; keys that are not the plan's are passed over.
        resolve: from a schedule's `_target_` to its class; by default lrflow's schedules only.

    Raises:
        ConfigError: lists everything that is wrong with the data.
    """
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, Mapping) else data
        raise ConfigError([Problem("plan.version", f"expected {VERSION}: not a plan of this lrflow", found)])
    problems: list[Problem] = []
    groups = [_group(group, f"plan.groups[{i}]", resolve, problems) for i, group in enumerate(data.get("groups", []))]
    horizon = _make(Horizon, data.get("horizon"), "plan.horizon", problems)
    if problems:
        raise ConfigError(problems)
    return groups, horizon


def _group(data: Any, key: str, resolve: Resolve | None, problems: list[Problem]) -> Any:
    if isinstance(data, Mapping) and "schedule" in data:
        try:
            data = {**data, "schedule": from_spec(data["schedule"], f"{key}.schedule", resolve)}
        except ConfigError as error:
            problems += error.problems
    if isinstance(data, Mapping) and isinstance(data.get("also"), list):
        moved = [_setting(each, f"{key}.also[{i}]", resolve, problems) for i, each in enumerate(data["also"])]
        data = {**data, "also": tuple(moved)}
    return _make(PlanGroup, data, key, problems)


def _setting(data: Any, key: str, resolve: Resolve | None, problems: list[Problem]) -> Any:
    if isinstance(data, Mapping) and "curve" in data:
        try:
            data = {**data, "curve": from_spec(data["curve"], f"{key}.curve", resolve)}
        except ConfigError as error:
            problems += error.problems
    return _make(PlanSetting, data, key, problems)


def _make(kind: type, data: Any, key: str, problems: list[Problem]) -> Any:
    """An instance of a dataclass from plain data; what does not fit is added to `problems`."""
    if not isinstance(data, Mapping):
        problems.append(Problem(key, "expected a mapping", data))
        return None
    known = [field.name for field in fields(kind)]
    if unknown := [name for name in data if name not in known]:
        problems += [
            Problem(f"{key}.{name}", "is not known", data[name], did_you_mean(name, known)) for name in unknown
        ]
        return None
    try:
        return kind(**data)
    except (TypeError, ValueError) as error:
        problems.append(Problem(key, str(error)))
        return None

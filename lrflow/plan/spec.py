"""A plan as plain data, and back: what plan.json holds and what the fingerprint is taken of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.plan.group import PlanGroup
from lrflow.plan.settings import PlanSetting
from lrflow.schedules import Horizon
from lrflow.schedules.specs import from_spec, to_spec

if TYPE_CHECKING:
    from lrflow.plan.plan import Plan

VERSION = 1  # of the layout below
Resolve = Callable[[str], type]


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


def fingerprint(data: object) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def to_dict(plan: Plan, told: bool = True) -> dict[str, Any]:
    """The plan as plain data, schedules by their spec.

    Args:
        plan: any.
        told: with what is only told and moves nothing, which a fingerprint is not taken of.
    """
    horizon = asdict(plan.horizon)
    if plan.horizon.samples_per_step is None or not (told or plan.in_samples):
        del horizon["samples_per_step"]
    return {
        "version": VERSION,
        "horizon": horizon,
        "groups": [_described(group, told) for group in plan.groups],
    }


def read(data: Mapping[str, Any], resolve: Resolve | None = None) -> tuple[list[PlanGroup], Horizon]:
    """The groups and the horizon that `to_dict` described.

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


def _described(group: PlanGroup, told: bool) -> dict[str, Any]:
    described = {field.name: getattr(group, field.name) for field in fields(group)}
    if group.depth is None or not told:
        del described["depth"]
    if group.route is None:
        del described["route"]  # plans without routes keep the fingerprint that they had before there were any
    del described["also"]
    if group.also:
        described["also"] = [vars(setting) | {"curve": to_spec(setting.curve)} for setting in group.also]
    return described | {"schedule": to_spec(group.schedule)}


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

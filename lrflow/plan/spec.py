"""A plan as plain data, and back: what plan.json holds and what the fingerprint is taken of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import lrflow.schedules
from lrflow.errors import ConfigError, Problem, did_you_mean

if TYPE_CHECKING:
    from lrflow.plan.plan import Plan, PlanGroup

VERSION = 1  # of the layout below
Resolve = Callable[[str], Any]


def canonical(data: object) -> str:
    """JSON with one spelling: equal data gives equal text on every machine (floats by their shortest exact repr)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(data: object) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, schedules by their spec."""
    return {
        "version": VERSION,
        "horizon": asdict(plan.horizon),
        "groups": [
            {field.name: getattr(group, field.name) for field in fields(group)} | {"schedule": group.schedule.spec()}
            for group in plan.groups
        ],
    }


def from_dict(data: Mapping[str, Any], resolve: Resolve | None = None) -> Plan:
    """The plan that `to_dict` described; ConfigError lists what is wrong with the data."""
    from lrflow.plan.plan import Plan

    if data.get("version") != VERSION:
        problem = Problem("plan.version", f"expected {VERSION}: not a plan of this lrflow", data.get("version"))
        raise ConfigError([problem])
    problems: list[Problem] = []
    groups = []
    for index, group in enumerate(data["groups"]):
        try:
            groups.append(_group(group, resolve or own))
        except (TypeError, ValueError, KeyError, ConfigError) as error:
            problems += _problems(f"plan.groups[{index}]", error)
    try:
        horizon = lrflow.schedules.Horizon(**data["horizon"])
    except (TypeError, ValueError, KeyError) as error:
        problems += _problems("plan.horizon", error)
    if problems:
        raise ConfigError(problems)
    return Plan(tuple(groups), horizon)


def own(path: str) -> Any:
    """What `lrflow.schedules` exports under this dotted path; nothing else is resolved."""
    prefix, _, name = path.rpartition(".")
    known = [f"lrflow.schedules.{export}" for export in lrflow.schedules.__all__]
    if prefix != "lrflow.schedules" or path not in known:
        raise ConfigError([Problem("_target_", "is not one of lrflow's schedules", path, did_you_mean(path, known))])
    return getattr(lrflow.schedules, name)


def build(data: Any, resolve: Resolve) -> Any:
    """Plain data with every mapping that has a `_target_` made into the object it describes, inmost first."""
    if isinstance(data, Mapping):
        made = {key: build(value, resolve) for key, value in data.items() if key != "_target_"}
        return resolve(data["_target_"])(**made) if "_target_" in data else made
    if isinstance(data, list | tuple):
        return [build(value, resolve) for value in data]
    return data


def _group(data: Mapping[str, Any], resolve: Resolve) -> PlanGroup:
    from lrflow.plan.plan import PlanGroup

    return PlanGroup(**{**data, "schedule": build(data["schedule"], resolve)})


def _problems(key: str, error: Exception) -> list[Problem]:
    if isinstance(error, ConfigError):
        return [Problem(f"{key}.{p.key}", p.message, p.value, p.hint, p.where) for p in error.problems]
    return [Problem(key, f"is missing {error}" if isinstance(error, KeyError) else str(error))]

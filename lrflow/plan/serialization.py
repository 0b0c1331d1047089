"""Plans as files: plan.json is read back from its data; plan.json, plan.csv and plan.png are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.files import write_json as write_data
from lrflow.files import write_whole
from lrflow.limits import is_number, is_whole
from lrflow.plan.checks import check
from lrflow.plan.figure import plot
from lrflow.plan.scalars import PlanScalar
from lrflow.plan.table import landmarks, sample_steps, setting_columns
from lrflow.plan.values import VERSION, PlanBase, PlanGroup, PlanSetting, plain_number
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.serialization import ResolveClass, from_spec

ROWS = 10_000  # most rows of the CSV file; longer runs are sampled evenly


def parts_of(
    data: Mapping[str, Any], resolve: ResolveClass | None = None
) -> tuple[tuple[PlanGroup, ...], Horizon, tuple[PlanScalar, ...]]:
    """Return the groups, the horizon and the scalars that `PlanBase.to_dict` described.

    Args:
        data: content of plan.json; other keys are ignored.
        resolve: maps a schedule's `_target_` to its class; by default lrflow's schedules only.

    Raises:
        ConfigError: lists every problem of the data.
    """
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, Mapping) else data
        raise ConfigError([Problem("plan.version", f"expected {VERSION}: not a plan of this lrflow", found)])
    problems: list[Problem] = []
    listed = {name: data.get(name, []) for name in ("groups", "scalars")}
    for name, given in listed.items():
        if not isinstance(given, list):
            problems.append(Problem(f"plan.{name}", "expected a list", given))
            listed[name] = []
    groups = [_group(group, f"plan.groups[{i}]", resolve, problems) for i, group in enumerate(listed["groups"])]
    scalars = [
        _scalar(PlanScalar, scalar, f"plan.scalars[{i}]", resolve, problems)
        for i, scalar in enumerate(listed["scalars"])
    ]
    horizon = _make(Horizon, data.get("horizon"), "plan.horizon", problems)
    if not problems:
        curves = [(f"scalars[{i}].curve", one.curve) for i, one in enumerate(scalars)]
        for i, group in enumerate(groups):
            curves.append((f"groups[{i}].schedule", group.schedule))
            curves += [(f"groups[{i}].also.{one.name}", one.curve) for one in group.also]
        problems += [problem for key, curve in curves for problem in _uncountable(curve, horizon, f"plan.{key}")]
    if problems:
        raise ConfigError(problems)
    return tuple(groups), horizon, tuple(scalars)


def _uncountable(curve: Curve, horizon: Horizon, key: str) -> list[Problem]:
    """Return the problem of a curve that cannot be evaluated on the horizon."""
    try:
        curve(0, horizon)
    except (ValueError, OverflowError) as error:
        return [Problem(key, str(error))]
    return []


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _is_count(value: Any) -> bool:
    return is_whole(value) and value >= 0


_NUMBER = (is_number, "a number")
_COUNT = (_is_count, "a whole number of at least 0")
_CURVE = (lambda value: isinstance(value, Curve), "a schedule")
_SWITCH = (lambda value: isinstance(value, bool), "true or false")
_TEXT = (_is_text, "text")
_MOVES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": _TEXT,
    "curve": _CURVE,
    "low": _NUMBER,
    "high": _NUMBER,
    "inverse": _SWITCH,
}
_FIELDS: dict[type, dict[str, tuple[Callable[[Any], bool], str]]] = {
    PlanGroup: {
        "name": _TEXT, "lr": _NUMBER, "scale": _NUMBER, "weight_decay": (_or_none(is_number), "a number or null"),
        "schedule": _CURVE, "tensors": _COUNT, "parameters": _COUNT, "frozen": _SWITCH,
        "route": (_or_none(_is_text), "text or null"), "depth": (_or_none(_is_count), "a whole number or null"),
        "also": (lambda value: isinstance(value, tuple), "a list"),
        "settings": (lambda value: isinstance(value, Mapping), "a mapping"),
    },
    PlanScalar: _MOVES,
    PlanSetting: {**_MOVES, "setting": _TEXT},
    Horizon: {},
}  # fmt: skip
"""By class: a check of each field, and the words for its valid values; a horizon checks its own."""


def _group(data: Any, key: str, resolve: ResolveClass | None, problems: list[Problem]) -> Any:
    if isinstance(data, Mapping) and "schedule" in data:
        try:
            data = {**data, "schedule": from_spec(data["schedule"], f"{key}.schedule", resolve)}
        except ConfigError as error:
            problems += error.problems
    if isinstance(data, Mapping) and isinstance(data.get("also"), list):
        moved = [
            _scalar(PlanSetting, each, f"{key}.also[{i}]", resolve, problems) for i, each in enumerate(data["also"])
        ]
        data = {**data, "also": tuple(moved)}
    return _make(PlanGroup, data, key, problems)


def _scalar(kind: type, data: Any, key: str, resolve: ResolveClass | None, problems: list[Problem]) -> Any:
    if isinstance(data, Mapping) and "curve" in data:
        try:
            data = {**data, "curve": from_spec(data["curve"], f"{key}.curve", resolve)}
        except ConfigError as error:
            problems += error.problems
    return _make(kind, data, key, problems)


def _make(kind: type, data: Any, key: str, problems: list[Problem]) -> Any:
    """Return an instance of a dataclass, or None after adding the problems of the data."""
    if not isinstance(data, Mapping):
        problems.append(Problem(key, "expected a mapping", data))
        return None
    known = [field.name for field in fields(kind)]
    if unknown := [name for name in data if name not in known]:
        problems += [
            Problem(f"{key}.{name}", "is not known", data[name], did_you_mean(name, known)) for name in unknown
        ]
        return None
    failed = {problem.key for problem in problems}
    wrong = [
        Problem(f"{key}.{name}", f"expected {words}", data[name])
        for name, (holds, words) in _FIELDS[kind].items()
        if name in data and not holds(data[name]) and not any(each.startswith(f"{key}.{name}") for each in failed)
    ]
    if wrong:
        problems += wrong
        return None
    try:
        return kind(**data)
    except (TypeError, ValueError) as error:
        problems.append(Problem(key, str(error)))
        return None


def write_files(plan: PlanBase, folder: Path, extra: Mapping[str, Any], picture: bool = True) -> list[Path]:
    """Write plan.png (if `picture`), plan.csv and plan.json into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        *([plot(plan, folder / "plan.png")] if picture else []),
        write_csv(plan, folder / "plan.csv"),
        write_json(plan, folder / "plan.json", extra),
    ]


def write_csv(plan: PlanBase, path: Path) -> Path:
    """Write one row per step: the LR of every trainable group, the settings as `momentum/GROUP`, then `scalar/NAME`.

    A batch that changes over the run is the last column.

    The floats read back exactly.
    """
    rates, moving = plan.lr(steps := sample_steps(plan, ROWS)), setting_columns(plan)
    values = {name: plan.setting(name, steps) for name in plan.also}
    settings = (values[name][:, column] for name, column, _ in moving)
    other = plan.columns_of(steps)
    rates = np.column_stack([rates, *settings, *other.values()])
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["step", *plan.names, *(title for _, _, title in moving), *other])
    table.writerows([step, *row] for step, row in zip(steps.tolist(), rates.tolist(), strict=True))
    return write_whole(path, text.getvalue())


def write_json(plan: PlanBase, path: Path, extra: Mapping[str, Any] | None = None) -> Path:
    """Write the plan (`Plan.from_dict` reads it), its fingerprint, landmarks and checks, then `extra`."""
    marks = landmarks(plan)
    content = {
        "fingerprint": plan.fingerprint,
        **plan.to_dict(),
        "landmarks": [
            {"step": step, "why": why, "lr": dict(zip(plan.names, plan.lr(step).tolist(), strict=True))}
            | {title: float(plan.setting(name, step)[column]) for name, column, title in setting_columns(plan)}
            | {column: float(value[0]) for column, value in plan.columns_of(np.array([step])).items()}
            for step, why in marks.items()
        ],
        "checks": [asdict(one) for one in check(plan)],
        **(extra or {}),
    }
    return write_data(path, content, default=plain_number)

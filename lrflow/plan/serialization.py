"""Plans as files: plan.json is read back from its data; plan.json, plan.csv and plan.png are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.files import write_json as write_data
from lrflow.files import write_whole
from lrflow.plan.base import VERSION, PlanBase, PlanGroup, PlanSetting, plain_number
from lrflow.plan.checks import check
from lrflow.plan.figure import plot
from lrflow.plan.table import landmarks, sample_steps, setting_columns
from lrflow.schedules import Horizon
from lrflow.schedules.serialization import ResolveClass, from_spec

ROWS = 10_000  # most rows of the CSV file; longer runs are sampled evenly


def groups_and_horizon(data: Mapping[str, Any], resolve: ResolveClass | None = None) -> tuple[list[PlanGroup], Horizon]:
    """Return the groups and the horizon that `PlanBase.to_dict` described.

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
    groups = [_group(group, f"plan.groups[{i}]", resolve, problems) for i, group in enumerate(data.get("groups", []))]
    horizon = _make(Horizon, data.get("horizon"), "plan.horizon", problems)
    if problems:
        raise ConfigError(problems)
    return groups, horizon


def _group(data: Any, key: str, resolve: ResolveClass | None, problems: list[Problem]) -> Any:
    if isinstance(data, Mapping) and "schedule" in data:
        try:
            data = {**data, "schedule": from_spec(data["schedule"], f"{key}.schedule", resolve)}
        except ConfigError as error:
            problems += error.problems
    if isinstance(data, Mapping) and isinstance(data.get("also"), list):
        moved = [_setting(each, f"{key}.also[{i}]", resolve, problems) for i, each in enumerate(data["also"])]
        data = {**data, "also": tuple(moved)}
    return _make(PlanGroup, data, key, problems)


def _setting(data: Any, key: str, resolve: ResolveClass | None, problems: list[Problem]) -> Any:
    if isinstance(data, Mapping) and "curve" in data:
        try:
            data = {**data, "curve": from_spec(data["curve"], f"{key}.curve", resolve)}
        except ConfigError as error:
            problems += error.problems
    return _make(PlanSetting, data, key, problems)


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
    """Write one row per step with the LR of every trainable group, then the scheduled settings as `momentum/GROUP`.

    The floats read back exactly.
    """
    rates, moving = plan.lr(steps := sample_steps(plan, ROWS)), setting_columns(plan)
    values = {name: plan.setting(name, steps) for name in plan.also}
    rates = np.column_stack([rates, *(values[name][:, column] for name, column, _ in moving)])
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["step", *plan.names, *(title for _, _, title in moving)])
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
            for step, why in marks.items()
        ],
        "checks": [asdict(one) for one in check(plan)],
        **(extra or {}),
    }
    return write_data(path, content, default=plain_number)

"""plan.png, plan.csv and plan.json: the plan as files of a run folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.files import write_whole
from lrflow.plan.base import PlanBase, plain
from lrflow.plan.checks import check
from lrflow.plan.picture import plot
from lrflow.plan.view import landmarks, sampled, setting_columns

ROWS = 10_000  # of the csv; a longer run is sampled evenly


def write_files(plan: PlanBase, folder: Path, beside: Mapping[str, Any], picture: bool = True) -> list[Path]:
    """Write plan.png, unless no `picture` is wanted, plan.csv and plan.json into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        *([plot(plan, folder / "plan.png")] if picture else []),
        write_csv(plan, folder / "plan.csv"),
        write_json(plan, folder / "plan.json", beside),
    ]


def write_csv(plan: PlanBase, path: Path) -> Path:
    """The LR of every trainable group, a row a step, and after the LRs what else moves, as `momentum/GROUP`.

    The floats read back exactly.
    """
    rates, moving = plan.lr(steps := sampled(plan, ROWS)), setting_columns(plan)
    values = {name: plan.setting(name, steps) for name in plan.also}
    rates = np.column_stack([rates, *(values[name][:, column] for name, column, _ in moving)])
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["step", *plan.names, *(title for _, _, title in moving)])
    table.writerows([step, *row] for step, row in zip(steps.tolist(), rates.tolist(), strict=True))
    return write_whole(path, text.getvalue())


def write_json(plan: PlanBase, path: Path, beside: Mapping[str, Any] | None = None) -> Path:
    """The plan itself (`Plan.from_dict` reads it), its fingerprint, the LRs at its landmarks and its checks.

    What is told `beside` the plan stands after them.
    """
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
        **(beside or {}),
    }
    return write_whole(path, json.dumps(content, indent=2, default=plain) + "\n")

"""A run folder as a run would write it, with what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lrflow.plan import Plan
from lrflow.plan.scalars import PlanScalar
from lrflow.plan.values import PlanGroup
from lrflow.schedules import Cosine, Horizon, Schedule

STARTED = {"started": "2026-12-01T06:00:00+00:00", "device": "cpu", "devices": 1, "versions": {"torch": "2.13"}}


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes `runs/NAME/` with a plan for groups of these peaks, and a row per step."""

    def make(
        name: str = "run",
        steps: int = 40,
        peaks: Mapping[str, float] | None = None,
        columns: Mapping[str, Mapping[int, float] | Sequence[float]] | None = None,
        summary: Mapping[str, Any] | None = None,
        overrides: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        findings: Sequence[Mapping[str, Any]] = (),
        made: int | None = None,
        scalars: Sequence[PlanScalar] = (),
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        peaks, made = peaks or {"body": 0.01, "head": 0.1}, steps if made is None else made
        curve = Schedule(Cosine(), warmup="10%")
        groups = [PlanGroup(group, peak, 1.0, None, curve, 1, 10, False) for group, peak in peaks.items()]
        plan = Plan(tuple(groups), Horizon(steps, 10), tuple(scalars))
        plan.write(folder, picture=False)
        rates = plan.lr(np.arange(made))
        series: dict[str, Any] = {"train/loss": 2.0 / (1 + np.arange(made))}
        for kind in ("lr", "lr_planned"):
            series |= {f"{kind}/{group}": rates[:, place] for place, group in enumerate(peaks)}
        series |= {"val/loss": {step: 1 + 9 / (step + 1) for step in range(9, made, 10)}, **(columns or {})}
        series = {
            key: column if isinstance(column, dict) else dict(enumerate(column)) for key, column in series.items()
        }
        lines = [",".join(["step", *series])]
        lines += [",".join([str(step), *(_cell(one.get(step)) for one in series.values())]) for step in range(made)]
        (folder / "metrics.csv").write_text("\n".join([*lines, ""]))
        content = {
            "name": name, "optimizer": {"lr": 0.1}, "trainer": {"checkpoint": {"monitor": "val/loss"}},
            "lrflow": {"choices": {"optimizer": "adamw"}, "overrides": list(overrides)}, **(config or {}),
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        (folder / "environment.json").write_text(json.dumps(STARTED))
        ended = {"status": "finished", "steps": made, "planned": steps, "seconds": 75.0, "metrics": {"val/loss": 1.5}}
        if summary is None or summary:
            (folder / "summary.json").write_text(json.dumps(ended | dict(summary or {})))
        (folder / "findings.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in findings))
        return folder

    return make


def _cell(value: float | None) -> str:
    return "" if value is None else repr(float(value))

"""The workspace and the report for W&B, by the form in which they are sent."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lrflow.metric import Metric
from lrflow.sweeps.results import SweepResults, TrialResult

pytest.importorskip("wandb_workspaces")

from lrflow.reports.wandb_pages import Shown, report_of, workspace_of

SHOWN = Shown(
    ("decay", "no_decay"), ("train/loss", "val/acc"), "val/acc", False, ("optimizer.lr", "schedule"), "monday"
)


def sections(page: Any) -> dict[str, list[Any]]:
    """The panels by the heading of their section."""
    content = json.loads(page._to_model().model_dump_json(by_alias=True))["spec"]
    return {one["name"]: one["panels"] for one in content["section"]["panelBankConfig"]["sections"]}


def test_the_workspace_shows_rates_metrics_sweep_and_findings() -> None:
    page = workspace_of(SHOWN, "me", "p")
    found = sections(page)
    assert [*found] == ["Metrics", "Learning rate", "Best value by LR", "Sweep", "Findings", "Groups", "By samples"]
    lines = {panel["config"]["chartTitle"]: panel["config"] for panel in found["Learning rate"]}
    assert lines["LR"]["metrics"] == ["lr/decay", "lr/no_decay"]
    assert lines["LR of decay, actual and planned"]["metrics"] == ["lr/decay", "lr_planned/decay"]
    assert {panel["config"]["xAxis"] for panel in found["Metrics"]} == {"step"}
    assert {panel["config"]["xAxis"] for panel in found["By samples"]} == {"samples"}
    scatter = found["Best value by LR"][0]["config"]
    assert (scatter["xAxis"], scatter["yAxis"], scatter["xAxisLogScale"]) == (
        "config:optimizer.value.lr", "summary:best/val/acc", True,
    )  # fmt: skip
    assert {panel["viewType"] for panel in found["Sweep"]} == {"Parallel Coordinates Plot", "Parameter Importance"}
    axes = json.dumps(found["Sweep"][0]["config"])
    assert "config:optimizer.value.lr" in axes
    assert "config:options.value.schedule" in axes
    assert "findings/table" in json.dumps(found["Findings"])
    assert "update_ratio/decay" in json.dumps(found["Groups"])
    assert '"value":"monday"' in page._to_model().model_dump_json(by_alias=True), "only the runs of the sweep"
    alone = Shown(SHOWN.groups, SHOWN.metrics, SHOWN.objective)
    assert "Sweep" not in sections(workspace_of(alone, "me", "p"))


def test_the_report_has_the_same_panels_for_the_runs_of_the_sweep() -> None:
    page = json.loads(report_of(SHOWN, "me", "p")._to_model().model_dump_json(by_alias=True))
    text = json.dumps(page)
    assert (page["displayName"], page["project"]["name"]) == ("Learning rate: monday", "p")
    for part in ("lr_planned/decay", "Parallel Coordinates Plot", "findings/table"):
        assert part in text, part
    grids = [block for block in page["spec"]["blocks"] if block["type"] == "panel-grid"]
    (condition,) = grids[0]["metadata"]["runSets"][0]["filters"]["filters"]
    assert (condition["key"]["name"], condition["value"]) == ("group", "monday")


def test_what_is_shown_is_read_from_the_runs(tmp_path: Path) -> None:
    run = tmp_path / "sweeps" / "monday" / "0"
    run.mkdir(parents=True)
    (run / "plan.json").write_text(json.dumps({"groups": [{"name": "decay"}, {"name": "no_decay"}]}))
    with (run / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "train/loss", "lr/decay", "val/acc"], [0, 1.0, 0.1, 0.5]])
    trials = (TrialResult(0, run, "finished", {"optimizer.lr": 0.1, "schedule": "wsd"}, {"val/acc": 0.5}),)
    sweep = SweepResults(run.parent, trials, ("optimizer.lr", "schedule"), (Metric("val/acc", "max"),))
    assert Shown.of(sweep) == SHOWN

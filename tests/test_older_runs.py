"""Run and sweep folders that acc908c (lrflow 0.1.0) wrote are resumed, evaluated and analysed.

They were made with `--config-dir options schedule=mine`, an option that is gone, on 3 epochs of digits:
`older_runs/whole` ran to its end, `older_runs/interrupted` is the same run, stopped after 30 of its 60 steps, and
`older_runs/sweep` is a grid of three LRs. Another processor rounds differently than theirs did, so that metrics are
compared to 1e-5.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from lrflow.cli import main

OLDER = Path(__file__).parent / "older_runs"


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of outputs with copies of them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLDER, tmp_path / "outputs")
    (tmp_path / "outputs/sweeps").mkdir()
    (tmp_path / "outputs/sweep").rename(tmp_path / "outputs/sweeps/sweep")
    return tmp_path / "outputs"


def assert_same_rows(run: Path, expected: Path) -> None:
    """The rows of metrics.csv are the same, but for times and what the older version did not measure."""
    ours, theirs = (
        [
            {name: float(value) for name, value in row.items() if value and "time" not in name}
            for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines())
        ]
        for folder in (run, expected)
    )
    known = {name for row in theirs for name in row}
    shared = [{name: value for name, value in row.items() if name in known} for row in ours]
    assert shared == [pytest.approx(row, rel=1e-5) for row in theirs]


def test_an_interrupted_run_ends_as_the_whole_one_did(outputs: Path) -> None:
    assert main(["resume=outputs/interrupted"]) == 0
    ended, whole = (json.loads((outputs / run / "summary.json").read_text()) for run in ("interrupted", "whole"))
    assert ended["status"] == "finished"
    assert ended["metrics"] == pytest.approx(whole["metrics"], rel=1e-5)
    assert_same_rows(outputs / "interrupted", outputs / "whole")


def test_a_run_is_evaluated(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tested = json.loads((outputs / "whole/summary.json").read_text())["metrics"]
    assert main(["task=evaluate", "task.from=outputs/whole"]) == 0
    printed = capsys.readouterr().out
    assert f"{tested['test/loss']:.6g}" in printed
    assert f"{tested['test/accuracy']:.6g}" in printed


def test_a_finished_run_is_extended(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume=outputs/whole", "resume.horizon=extend", "trainer.max_epochs=4"]) == 0
    assert json.loads((outputs / "whole/summary.json").read_text())["steps"] == 80


def test_a_plan_is_compared_with_theirs(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=plan", "model.widths=[4]", "against=outputs/whole"]) == 0
    assert json.loads((outputs / "whole/plan.json").read_text())["fingerprint"][:12] in capsys.readouterr().out


def test_a_sweep_is_analysed_and_its_best_trial_run_again(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=analyze", "task.from=outputs/sweeps/sweep"]) == 0
    sweep = outputs / "sweeps/sweep"
    assert yaml.safe_load((sweep / "recipe/best.yaml").read_text())["optimizer"]["lr"] == 0.1
    assert main(["--config-dir", str(sweep), "recipe=best", "name=best"]) == 0
    (again,) = outputs.glob("*_best")
    assert_same_rows(again, sweep / "1")


def test_a_sweep_is_resumed(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = outputs.parent / "options/schedule/mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("defaults:\n  - cosine\nfloor: 0.1\n")
    assert main(["-m", "--config-dir", "options", "sweep.resume=outputs/sweeps/sweep"]) == 0
    assert "3 of 3 trials are done" in capsys.readouterr().out

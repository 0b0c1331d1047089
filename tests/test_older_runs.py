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
from lrflow.loggers.wandb_file import rows_of
from lrflow.loggers.wandb_history import OF_LIGHTNING
from lrflow.runs import RunFolder
from lrflow.training.machine import varies
from tests.support.wandb_files import Logged, files_of, write_file

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


def test_a_run_continues_on_the_axis_that_it_has_at_wandb(outputs: Path) -> None:
    """Their version left it to Lightning's logger, with an axis of its own."""
    run = outputs / "interrupted"
    run_id = RunFolder(run).run_id  # the one that dashboards had then
    with (run / "metrics.csv").open(newline="") as file:
        logged: dict[int, dict[str, float]] = {}
        for row in csv.DictReader(file):
            logged.setdefault(int(row.pop("step")), {}).update(
                {name: float(text) for name, text in row.items() if text}
            )
    write_file(run, logged, axis=OF_LIGHTNING, run_id=run_id)
    assert main(["resume=outputs/interrupted", "logger=wandb", "logger.wandb.mode=offline"]) == 0
    union = [row for path in files_of(run) for _, row in rows_of(path)]
    assert [row[OF_LIGHTNING] for row in union] == [*range(61)]  # and the test
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            own = {name: float(text) for name, text in row.items() if text and not varies(name) and name != "step"}
            assert own.items() <= union[int(row["step"])].items(), row["step"]
    axes = [one.step_metric for one in Logged(run).of["metric"] if one.glob_name == "*"]
    assert axes[-1] == OF_LIGHTNING


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

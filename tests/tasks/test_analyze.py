"""A real sweep and what comes out of it, on the command line."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from pages import charts, marks

from lrflow.cli import main
from lrflow.errors import LrflowError
from lrflow.runs import RunFolder
from lrflow.training.machine import varies

SMALL = ["trainer.max_epochs=1", "data.batch_size=256", "trainer.progress=false"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a sweep of four trials."""
    home = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("COLUMNS", "100")
        words = [
            "-m",
            "recipe=logistic",
            "fast=true",
            "optimizer=sgd,adamw",
            "optimizer.lr=1e-2,1e-1",
            *SMALL,
        ]
        assert main(words) == 0
    return home


@pytest.fixture
def folder(swept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sweep's folder, in whose home the command line is."""
    monkeypatch.chdir(swept)
    monkeypatch.setenv("COLUMNS", "100")
    (found,) = (Path("outputs") / "sweeps").iterdir()
    return found


def test_a_sweep_writes_its_results(folder: Path) -> None:
    left = {path.name for path in folder.iterdir()}
    assert {"sweep.csv", "sweep.png", "report.html", "recipe"} <= left
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [str(number) for number in range(4)]
    for row in rows:
        summary = RunFolder(folder / row["folder"]).read_summary()
        assert row["val/loss"] == str(summary["metrics"].get("val/loss", ""))


def test_the_page_shows_every_trial_with_a_link_to_its_folder(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for number in range(4):
        assert f'<a href="{number}/">{number}</a>' in page
    points = [row for rows in marks(charts(page)["val/loss against optimizer.lr"], "point") for row in rows]
    hints = [row["hint"] for row in points if "trial" in (row.get("hint") or "")]
    assert sorted({int(re.search(r"trial (\d+)", hint)[1]) for hint in hints}) == list(range(4))
    assert any("optimizer = sgd\noptimizer.lr = 0.01" in hint for hint in hints)


def test_the_best_trial_runs_again_from_its_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "sweep.csv").open(newline="") as file:
        best = min((row for row in csv.DictReader(file) if row["val/loss"]), key=lambda row: float(row["val/loss"]))
    before = set(Path("outputs").iterdir())
    assert main(["--config-dir", str(folder), "recipe=best"]) == 0
    (again,) = set(Path("outputs").iterdir()) - before
    first = RunFolder(folder / best["folder"])
    assert RunFolder(again).read_summary()["metrics"] == first.read_summary()["metrics"]
    assert _rows(again / "metrics.csv") == _rows(first.metrics)


def test_the_results_are_printed_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "report.html").unlink()
    capsys.readouterr()
    assert main(["task=analyze"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == f"{folder}, by val/loss (min)"
    assert lines[1].split()[:3] == ["best", "LR", "interval"]
    assert {lines[2].split()[0], lines[3].split()[0]} == {"sgd", "adamw"}
    assert "2 LRs are too few to fit" in out
    assert f"run the best again: python -m lrflow --config-dir {folder} recipe=best" in out
    assert (folder / "report.html").exists()


def test_by_another_metric(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=analyze", f"task.from={folder}", "task.metric=val/accuracy", "task.margin=0.1"]) == 0
    out = capsys.readouterr().out
    assert "by val/accuracy (max)" in out
    assert "sensitivity" not in out


def test_an_analysis_by_another_metric_does_not_change_the_recipe(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = folder / "recipe" / "best.yaml"
    words = ["task=analyze", f"task.from={folder}"]
    assert main(words) == 0
    assert "recipe/best.yaml" in capsys.readouterr().out
    before = recipe.read_text()
    assert main([*words, "task.metric=val/loss", "task.mode=max"]) == 0
    assert recipe.read_text() == before
    assert "recipe/best.yaml is unchanged; task.write=true writes it" in capsys.readouterr().out
    assert main([*words, "task.metric=val/loss", "task.mode=max", "task.write=true"]) == 0
    assert recipe.read_text() != before
    assert main(words) == 0
    assert recipe.read_text() == before


@pytest.mark.usefixtures("rendered")
def test_without_the_library_of_the_page_the_rest_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bytes:
        raise LrflowError("there is no library")

    monkeypatch.setattr("lrflow.reports.page.library", fail)
    (folder / "sweep.png").unlink()
    assert main(["task=analyze"]) == 0
    assert "no report.html: there is no library" in capsys.readouterr().out
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_by_two_metrics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"task.from={folder}", "task.metric=[val/accuracy,val/loss]", "task.trial=2"]
    assert main(["task=analyze", *words]) == 0
    out = capsys.readouterr().out
    assert "by val/accuracy (max), val/loss (min)" in out
    assert "Pareto front: " in out
    assert f"trial 2 again: python -m lrflow --config-dir {folder} recipe=trial-2" in out
    assert "# Trial 2 of a sweep: finished, val/accuracy" in (folder / "recipe" / "trial-2.yaml").read_text()


def test_an_unknown_metric_or_trial_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"task.from={folder}", "task.metric=[val/los,val/loss]", "task.mode=[min,min,max]", "task.trial=7"]
    assert main(["task=analyze", *words]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "did you mean val/loss?" in err
    assert "as many as there are objectives (2)" in err
    assert "they are 0 to 3" in err


def test_a_folder_without_trials_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=analyze", f"task.from={folder}/0"]) == 2
    assert "give its parent folder" in capsys.readouterr().err


def test_a_folder_without_write_permission_is_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrflow.sweeps.results.SweepResults.write_csv", full)
    assert main(["task=analyze"]) == 1
    assert "the results of the sweep cannot be written: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("margin", ["much", "-5%", "0", "0%", "5 %", "true"])
def test_invalid_margins_are_reported(margin: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=analyze", f"task.margin={margin}"]) == 2
    assert "expected a share of what training gains" in capsys.readouterr().err


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if not varies(key)} for row in csv.DictReader(file)]

"""`lrflow init` makes a project that plans, trains and passes its own tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrflow.cli import main


def test_a_new_project_passes_its_tests_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "labs/wine_lab"]) == 0
    project = tmp_path / "labs" / "wine_lab"
    assert not [path for path in project.rglob("*") if path.is_file() and "my_project" in path.read_text()]
    source = {"PYTHONPATH": f"{Path(__file__).parents[2]}:{project}"}
    job = python("-m", "lrflow", "--config-dir", "options", "recipe=patients", "fast=true", cwd=project, **source)
    assert job.wait() == 0, job.communicate()
    monkeypatch.syspath_prepend(project)
    tests: dict[str, Any] = {"__file__": str(project / "tests" / "test_wine_lab.py")}
    exec((project / "tests" / "test_wine_lab.py").read_text(), tests)
    tests["test_the_plan_reaches_the_peak_and_decays"]()


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("my-lab", "did you mean my_lab?"),
        ("class", "no name of a Python package"),
        ("torch", "a package torch already"),
        ("json", "a package json already"),
        ("full", "exists already"),
        ("full/a_file/lab", "cannot be written"),
        ("", "needs the folder"),
    ],
)
def test_a_wrong_folder_is_refused_and_nothing_is_written(
    folder: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a_file").touch()
    assert main(["init", *([folder] if folder else [])]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a_file", "full"]

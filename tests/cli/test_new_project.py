"""`lrflow init` makes a project that plans, trains and passes its own tests."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from schemas import against

from lrflow.cli import main
from lrflow.cli.subcommands import SUBCOMMANDS
from lrflow.config.composition.option_files import read_option
from lrflow.config.composition.options import Catalogue


def test_a_new_project_passes_its_tests_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "labs/wine_lab"]) == 0
    project = tmp_path / "labs" / "wine_lab"
    texts = [path for path in project.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert not [path for path in texts if "my_project" in path.read_text()]
    source = {"PYTHONPATH": f"{Path(__file__).parents[2]}:{project}"}
    job = python("-m", "lrflow", "--config-dir", "options", "recipe=patients", "fast=true", cwd=project, **source)
    assert job.wait() == 0, job.communicate()
    check_schema(project)
    monkeypatch.syspath_prepend(project)
    tests: dict[str, Any] = {"__file__": str(project / "tests" / "test_wine_lab.py")}
    exec((project / "tests" / "test_wine_lab.py").read_text(), tests)
    tests["test_the_plan_reaches_the_peak_and_decays"]()
    monkeypatch.chdir(project)
    for command in commands(project):
        words = shlex.split(command.partition(" > ")[0], comments=True)[3:]
        if words[0] not in SUBCOMMANDS:
            words = [word.partition(",")[0] for word in words if word != "-m"] + ["--cfg", "job"]
        assert main(words) == 0


def commands(project: Path) -> list[str]:
    """What README.md and AGENTS.md of a project tell to type."""
    found = {
        command: None
        for name in ("README.md", "AGENTS.md")
        for command in re.findall(r"python -m lrflow [^`\n]+", (project / name).read_text())
    }
    assert len(found) > 8
    return list(found)


def check_schema(project: Path) -> None:
    """Every YAML file names its schema, which accepts it; an editor finds the same one in its settings."""
    error_in = against(json.loads((project / "lrflow.schema.json").read_text()))
    settings = json.loads((project / ".vscode" / "settings.json").read_text())["yaml.schemas"]
    assert json.loads((project / ".vscode" / "extensions.json").read_text())["recommendations"]
    files = [*project.glob("options/*/*.yaml"), *project.glob("outputs/*/config.yaml")]
    assert len(files) == 7
    for path in files:
        (line,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", path.read_text(), re.MULTILINE)
        file, _, definition = line.partition("#/definitions/")
        assert (path.parent / file).resolve() == project / "lrflow.schema.json"
        (found,) = [
            schema
            for schema, globs in settings.items()
            if any(path in project.glob(glob.replace("/**/", "/*/" if "outputs" in glob else "/")) for glob in globs)
        ]
        if definition:
            assert json.loads((project / found).read_text()) == {
                "$ref": f"../../lrflow.schema.json#/definitions/{definition}"
            }
        else:
            assert (project / found).resolve() == project / "lrflow.schema.json"
        assert not error_in(read_option(path).content, definition.removesuffix("-option"))
    options = Catalogue([project / "options"])
    assert options.options("model")["net"].summary == "This project's plain torch module."
    assert options.options("recipe")["patients"].summary.startswith("Predict the progression")


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

"""A project of one's own: a package that is installed apart from lrflow, and trained through its command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrflow.config import compose
from lrflow.config.composition.options import home
from lrflow.runs import RunFolder
from lrflow.tasks.plan import compile_plan, read_plan

pytest.importorskip("hatchling", reason="needs hatchling to build the project's package")

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A copy of the folder, as its README says, and where its package has been installed."""
    place = tmp_path_factory.mktemp("own")
    copy, site = place / "my_project", place / "site"
    shutil.copytree(home("recipes") / "own_model", copy, ignore=shutil.ignore_patterns("__pycache__"))
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*words, "--disable-pip-version-check", "--target", str(site), str(copy)], check=True)
    return SimpleNamespace(folder=copy, site=site)


@pytest.fixture
def lrflow(project: SimpleNamespace, python: Any, tmp_path: Path) -> Callable[..., Done]:
    """Runs the command line in a folder, by default one that has nothing to do with the project."""

    def run(*words: str, cwd: Path = tmp_path, options: Path = project.folder / "options") -> Done:
        words = ("--config-dir", str(options), *words, f"output={tmp_path / 'runs'}")
        job = python("-m", "lrflow", *words, cwd=cwd, PYTHONPATH=str(project.site), LRFLOW_TRUST="")
        return Done(words, job.wait(), *job.communicate())

    return run


def only_run(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_a_plain_module_is_trained_from_anywhere(lrflow: Callable[..., Done], tmp_path: Path) -> None:
    done = lrflow("recipe=patients", "trainer.max_epochs=2", "trust=my_project")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_run(tmp_path)
    assert {"val/r2", "val/mae", "test/r2"} <= RunFolder(folder).read_summary()["metrics"].keys()
    # Inside lrflow the same is trained, at the same rates.
    in_place = compile_plan(compose(["recipe=own_model", "trainer.max_epochs=2"]))
    assert read_plan(str(folder), tmp_path).fingerprint == in_place.fingerprint


def test_a_lightning_module_is_trained_in_the_folder_that_trusts_it(
    lrflow: Callable[..., Done], project: SimpleNamespace, tmp_path: Path
) -> None:
    words = ("recipe=patients_gaussian", "trainer.max_epochs=2", "layers=calm_head")
    done = lrflow(*words, cwd=project.folder, options=Path("options"))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_run(tmp_path)
    assert {"val/r2", "val/loss", "test/r2"} <= RunFolder(folder).read_summary()["metrics"].keys()
    groups = {group.name: (group.lr, group.tensors) for group in read_plan(str(folder), tmp_path).groups}
    head, body = pytest.approx(9e-4), pytest.approx(3e-3)
    assert groups == {"head": (head, 1), "head/bias": (head, 1), "body/bias": (body, 2), "body": (body, 2)}


def test_without_trust_nothing_is_built(lrflow: Callable[..., Done], tmp_path: Path) -> None:
    done = lrflow("recipe=patients")
    assert done.returncode == 2
    told = " ".join((done.stdout + done.stderr).split())
    assert "model._target_ = my_project.net.Net a config may not build this" in told
    assert "add trust=my_project to the command line" in told
    assert "Traceback" not in told
    assert not (tmp_path / "runs").exists()

"""Every recipe runs, in its smoke version, from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.config import compose
from lrflow.config.catalogue import recipes
from lrflow.data import sources
from lrflow.runs import RunFolder

ROOT = Path(__file__).parent.parent.parent
PLAIN = [name for name in recipes() if "/" not in name]
VARIANTS = [name for name in recipes() if "/" in name]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, with the data that `make data` has fetched."""
    monkeypatch.chdir(tmp_path)
    if (ROOT / ".data").is_dir():
        monkeypatch.setenv("LRFLOW_DATA", str(ROOT / ".data"))


def need(name: str) -> None:
    """Skip, with the reason, where a recipe's data or extra is not there."""
    config = compose([f"recipe={name}", "fast=on"])
    target = f"{config.data.target} {config.data.node().get('source', '')}"
    if ("FashionMNIST" in target or "finetune_vision" in target) and not sources.locate():
        pytest.skip("FashionMNIST is not there: make data")


def finished(folder: Path) -> None:
    (run,) = folder.glob("outputs/*/")
    summary = RunFolder(run).read_summary()
    assert summary["status"] == "finished"
    assert summary["steps"] >= 1
    assert summary["metrics"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_recipe(name: str, tmp_path: Path) -> None:
    need(name)
    words = [sys.executable, "-m", "lrflow", f"recipe={name}", "fast=true"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    finished(tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need(name)
    code = main([f"recipe={name}", "fast=true", "trainer.progress=false"])
    assert code == 0, capsys.readouterr().err[-4000:]
    finished(tmp_path)

"""Every recipe runs, in its smoke version."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lrflow.cli.jobs import run_task
from lrflow.config import compose
from lrflow.config.composition.options import recipes
from lrflow.data.fashion_mnist import fashion_mnist
from lrflow.data.fashion_mnist import files as fashion_mnist_files
from lrflow.runs import RunFolder

ROOT = Path(__file__).parent.parent.parent


read = cache(fashion_mnist.read_idx)


def shorten_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films end after 30 frames; rl/test_environments.py has a whole one."""
    from gymnasium.wrappers import TimeLimit

    from lrflow.recipes.rl import evaluation

    make = evaluation.make_environment

    def soon_over(*arguments: Any, render_mode: str | None = None) -> Any:
        env = make(*arguments, render_mode=render_mode)
        return TimeLimit(env, 30) if render_mode else env

    monkeypatch.setattr(evaluation, "make_environment", soon_over)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, with the data that `make data` has fetched, decompressed once per process."""
    monkeypatch.setattr(fashion_mnist, "read_idx", lambda path: read(path).copy())
    monkeypatch.chdir(tmp_path)
    if (ROOT / ".data").is_dir():
        monkeypatch.setenv("LRFLOW_DATA", str(ROOT / ".data"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", recipes())
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("rl_"):
        shorten_films(monkeypatch)
    config = compose([f"recipe={name}", "fast=true", "trainer.progress=false"])
    target = f"{config.data.target} {config.data.node().get('source', '')}"
    if re.search("FashionMNIST|finetune_vision|federated", target) and not fashion_mnist_files.locate():
        pytest.skip("FashionMNIST is not there: make data")
    run_task(config)
    (run,) = tmp_path.glob("outputs/*/")
    summary = RunFolder(run).read_summary()
    assert summary["status"] == "finished"
    assert summary["steps"] >= 1
    assert summary["metrics"]

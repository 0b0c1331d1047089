"""Whole runs on a replay buffer: interrupted they go on exactly, with buffer, environments, exploration and target."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.config import compose
from lrflow.tasks import train
from lrflow.training.machine import varies

pytest.importorskip("gymnasium", reason="the extra rl is not installed")
pytestmark = pytest.mark.usefixtures("undrawn")

QUICK = ["fast=true", "task.test=false", "trainer.val_every=100%", "trainer.checkpoint.monitor=null"]
Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run by its overrides; gives its folder."""

    def train_as(*overrides: str) -> Path:
        words = [*QUICK, *overrides, f"output={tmp_path}/outputs", "trainer.progress=false"]
        return Path(train.run(compose(words))["folder"])

    return train_as


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv but for the times."""
    with (folder / "metrics.csv").open() as file:
        return [{key: row[key] for key in row if not varies(key)} for row in csv.DictReader(file)]


def last_state(folder: Path) -> dict[str, Any]:
    """What the last checkpoint of a run goes on from."""
    saved = torch.load(max(folder.glob("checkpoints/step-*.ckpt")), weights_only=True)
    return {key: saved[key] for key in ("state_dict", "optimizer_states", "OffPolicyData", "global_step")}


@pytest.mark.parametrize("recipe", ["rl_dqn", "rl_sac"])
def test_from_any_of_its_checkpoints_a_run_goes_on_exactly(same: Any, run: Run, recipe: str) -> None:
    # Of DQN the 37th step stands between two batches of one collection, the 74th in the second epoch.
    settings = [f"recipe={recipe}", "trainer.checkpoint.every=37", "trainer.checkpoint.keep=null", "seed=3"]
    whole = run(*settings)
    for step in (37, 74):
        resumed = run(*settings, f"resume.from={whole}/checkpoints/step-{step:07d}.ckpt")
        assert resumed != whole
        assert rows(resumed) == [row for row in rows(whole) if int(row["step"]) >= step]
        assert same(last_state(resumed), last_state(whole))


def test_the_environment_steps_of_a_run_are_what_was_asked_for(run: Run) -> None:
    folder = run("recipe=rl_dqn", "trainer.max_epochs=null", "trainer.max_samples=160")
    state = last_state(folder)
    assert state["global_step"] == 80
    assert state["OffPolicyData"]["steps"] == 64 + 160


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(same: Any, python: Any, lrflow: Any, tmp_path: Path, run: Run) -> None:
    settings = ["recipe=rl_dqn", "trainer.max_epochs=8", "trainer.checkpoint.every=5"]
    whole = run(*settings)
    process = python("-m", "lrflow", *QUICK, *settings, f"output={tmp_path}/killed", cwd=tmp_path)
    saved = "killed/*/checkpoints/step-00002[0-9][0-9].ckpt"
    assert process.interrupt(signal.SIGKILL, lambda: list(tmp_path.glob(saved))) == -signal.SIGKILL
    (killed,) = tmp_path.glob("killed/*/")
    assert last_state(killed)["global_step"] < last_state(whole)["global_step"]
    done = lrflow(f"resume={killed}", "task.test=false")
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    assert "warning" not in done.stdout + done.stderr
    assert rows(killed) == rows(whole)
    assert same(last_state(killed), last_state(whole))

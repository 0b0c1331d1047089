"""A search of lrflow's as a sweep of W&B: its space in W&B's words, and an agent that drives lrflow with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from lrflow.cli import main
from lrflow.errors import ConfigError, LrflowError
from lrflow.metric import Metric
from lrflow.runs import RunFolder
from lrflow.sweeps.folders import RECORD
from lrflow.sweeps.results import SweepResults
from lrflow.sweeps.wandb_sweep import FILE, as_wandb_sweep, write_wandb_sweep
from tests.support.wandb_files import Logged

pytest.importorskip("wandb")

GIVEN = [
    "trainer.max_steps=2", "optimizer=sgd,adamw", "optimizer.lr=interval(1e-4,1e-1)", "hydra.verbose=true",
    "data.batch_size=int(interval(16,64))", "model.dropout=interval(0,0.5)", "seed=0,1", "sweep.n_trials=9",
    "task=train",
]  # fmt: skip


def sweep_of(folder: Path, given: list[str], **settings: Any) -> SweepResults:
    (folder / RECORD).write_text(yaml.safe_dump({"overrides": given, "settings": settings}))
    return SweepResults(folder, (), (), (Metric("val/accuracy", "max"), Metric("val/loss", "min")))


def test_the_space_in_the_words_of_wandb(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GIVEN, sampler="tpe", n_trials=9)
    write_wandb_sweep(sweep)
    assert yaml.safe_load((tmp_path / FILE).read_text()) == {
        "name": tmp_path.name,
        "method": "bayes",
        "metric": {"name": "val/accuracy", "goal": "maximize"},
        "run_cap": 9,
        "parameters": {
            "optimizer": {"values": ["sgd", "adamw"]},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
            "data.batch_size": {"distribution": "int_uniform", "min": 16, "max": 64},
            "model.dropout": {"distribution": "uniform", "min": 0, "max": 0.5},
            "seed": {"values": [0, 1]},
        },
        "command": [
            "${env}", "python", "-m", "lrflow", "trainer.max_steps=2", "logger=wandb", "${args_no_hyphens}",
        ],
    }  # fmt: skip
    assert as_wandb_sweep(sweep_of(tmp_path, ["seed=0,1", "logger=[wandb,mlflow]"], sampler="grid"))["command"][
        -2:
    ] == [
        "logger=[wandb,mlflow]",
        "${args_no_hyphens}",
    ]


def test_what_wandb_cannot_search(tmp_path: Path) -> None:
    given = ["optimizer=sgd,adamw", "optimizer.momentum=tag(optimizer:sgd,interval(0.5,0.9))"]
    with pytest.raises(ConfigError, match="no conditions"):
        as_wandb_sweep(sweep_of(tmp_path, given))
    (tmp_path / RECORD).unlink()
    with pytest.raises(LrflowError, match="no record of a search"):
        as_wandb_sweep(SweepResults(tmp_path, (), (), (Metric("val/loss", "min"),)))


def test_an_agent_drives_lrflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    config = as_wandb_sweep(
        sweep_of(tmp_path, ["trainer.max_steps=2", "optimizer.lr=1e-4,1e-3", "optimizer=sgd,adamw"])
    )
    drawn = {"optimizer.lr": {"value": 1e-05}, "optimizer": {"value": "sgd"}}  # as the server sends them
    words: list[str] = []
    for word in create_sweep_command([*config["command"]]):
        arguments = create_sweep_command_args({"args": drawn})
        words += arguments.get(word[2:-1], [word])
    assert words[:4] == ["${env}", "python", "-m", "lrflow"]
    before = dict(os.environ)
    wandb.teardown()  # it has read the environment
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "drawn1", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    assert main([*words[4:], "logger.wandb.settings.silent=true"]) == 0
    (folder,) = Path("outputs").iterdir()
    found = Logged(folder)
    assert found.run.run_id == RunFolder(folder).run_id == "drawn1"
    assert (found.config["optimizer"]["lr"], found.config["options"]["optimizer"]) == (1e-05, "sgd")
    assert isinstance(found.summary["val/loss"], float), "what the sweep optimizes is a number in the summary"
    wandb.teardown()
    os.environ.clear()
    os.environ.update(before)

"""task=forecast, typed: what it predicts and writes, the schedule that it proposes, and what is refused."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.cli import main
from lrflow.tuning.loss_record import common_width, read_losses

DIGITS = ["data=digits", "model.widths=[8]", "trainer=cpu", "trainer.progress=false", "task.test=false", "report=false"]
TRUNK = [*DIGITS, "schedule=wsd", "schedule.warmup=5", "schedule.cooldown=0%", "trainer.max_epochs=null"]
TRUNK += ["trainer.max_steps=60", "trainer.checkpoint.keep=null", "trainer.checkpoint.every=20 steps"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trunk, and a branch of it with a cooldown."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("runs")
    assert main([*TRUNK, f"output={output}", "name=trunk"]) == 0
    (trunk,) = output.glob("*_trunk")
    branch = ["resume.horizon=branch", "trainer.max_steps=50", "schedule.cooldown=20 steps", "name=branch"]
    assert main([f"resume={trunk}", f"output={output}", *branch]) == 0
    return trunk, next(output.glob("*_branch"))


@pytest.fixture
def typed(capsys: Any, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a forecast of the runs in a folder of its own; gives the exit code and what it printed."""

    def go(folders: tuple[Path, ...], *words: str) -> tuple[int, str]:
        given = f"task.from=[{','.join(map(str, folders))}]"
        code = main(["task=forecast", given, f"output={tmp_path}", *words])
        told = capsys.readouterr()
        return code, " ".join((told.out + told.err).split())

    return go


def test_a_forecast_of_another_schedule_and_length(runs: Any, typed: Any, tmp_path: Path) -> None:
    code, told = typed(runs, "schedule=cosine", "schedule.warmup=5", "trainer.max_steps=80")
    assert code == 0, told
    (folder,) = tmp_path.glob("*forecast*")
    record = json.loads((folder / "forecast.json").read_text())
    end = record["predicted"]
    assert record["steps"] == 80
    assert end["low"] < end["loss"] < end["high"]
    assert f"train/loss after 80 steps: {end['loss']:.4f}, {end['low']:.4f} to {end['high']:.4f}" in told
    rows = list(csv.DictReader((folder / "forecast.csv").open()))
    assert [int(rows[0]["step"]), int(rows[-1]["step"])] == [6, 80]
    assert float(rows[-1]["loss"]) == pytest.approx(end["loss"])
    assert float(rows[40]["lr"]) == pytest.approx(3e-3 * 0.5 * (1 + np.cos(np.pi * (int(rows[40]["step"]) - 6) / 75)))
    assert (folder / "forecast.png").is_file()
    # The second half of the 75 steps after the warmup; of the 20 of the cooldown those after its first quarter.
    assert "below half its peak for 37 steps, in the runs for 13 at most" in told


def test_a_real_run_is_forecast_from_its_own_rates_and_compared(runs: Any, typed: Any, tmp_path: Path) -> None:
    code, told = typed(runs, f"task.against={runs[1]}", "task.law=functional", "schedule=linear")
    assert code == 0, told
    (folder,) = tmp_path.glob("*forecast*")
    record = json.loads((folder / "forecast.json").read_text())
    losses = read_losses(runs[0], "train/loss")
    real = read_losses(runs[1], "train/loss").averaged(common_width([losses]))
    own = record["real"]
    assert own["loss"] == pytest.approx(real.values[-1])
    assert own["error"] == pytest.approx(own["predicted"]["loss"] / real.values[-1] - 1)
    assert record["parameters"]["gamma"] == 0
    assert record["steps"] == 50
    assert real.rates[30] == pytest.approx(3e-3)
    assert real.rates[49] < 1e-3
    assert "real after 49 steps" in told


def test_the_proposed_schedule_is_an_option_that_plans_as_it_was_found(runs: Any, typed: Any, tmp_path: Path) -> None:
    code, told = typed(runs, "task.best=true", "trainer.max_steps=100")
    assert code == 0, told
    (folder,) = tmp_path.glob("*forecast*")
    best = json.loads((folder / "forecast.json").read_text())["best"]
    assert best["predicted"] == min(best["others"].values())
    assert best["command"] in told
    words = shlex.split(best["command"])
    assert words[:3] == ["python", "-m", "lrflow"]
    assert main([*words[3:], "task=plan", f"output={tmp_path}/plan"]) == 0
    (planned,) = (tmp_path / "plan").glob("*plan*")
    rates = np.array([float(row["decay"]) for row in csv.DictReader((planned / "plan.csv").open())])
    assert rates.max() == pytest.approx(3e-3)
    assert (np.diff(rates[5:]) <= 1e-12).all()


def test_what_cannot_be_forecast_is_told_in_one_message(runs: Any, typed: Any, tmp_path: Path) -> None:
    trunk, branch = runs
    other = tmp_path / "other"
    shutil.copytree(branch, other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("batch_size: 64", "batch_size: 32"))
    silent = tmp_path / "silent"
    shutil.copytree(branch, silent)
    (silent / "metrics.csv").write_text("step,train/grad_norm\n45,1.0\n")
    early = tmp_path / "early"
    shutil.copytree(branch, early)
    lines = (branch / "metrics.csv").read_text().splitlines(keepends=True)
    (early / "metrics.csv").write_text("".join(lines[:3]))
    copy = tmp_path / "copy"
    shutil.copytree(trunk, copy)
    planless = tmp_path / "planless"
    shutil.copytree(branch, planless)
    (planless / "plan.json").write_text("{}")
    for folders, words, parts in [
        ((trunk,), [], ["task.from", "expected two run folders or more"]),
        ((trunk, tmp_path / "none"), [], ["task.from", "there is none of this name"]),
        ((tmp_path / "none", trunk), [], ["task.from", "expected a run folder", "known:"]),
        ((tmp_path / "copi", trunk), [], ["did you mean", "copy?"]),
        ((trunk, tmp_path / "copi"), [], ["did you mean", "copy?"]),
        ((trunk, tmp_path), [], ["this one has no config.yaml", "task.from=[outputs/TRUNK"]),
        ((trunk, copy), [], ["has the LRs of", "give a branch whose LR leaves that of the trunk"]),
        ((trunk, silent), [], ["has no train/loss", "log train/loss"]),
        ((trunk, early), [], ["a fit needs 4"]),
        ((trunk, branch), ["task.metric=val/los"], ["has no val/los, but train/loss, val/loss"]),
        ((trunk, branch), ["task.law=multi"], ["task.law", "multi_power"]),
        ((trunk, other), [], ["has another data.batch_size", "data.batch_size=64"]),
        ((trunk, branch), ["optimizer=sgd"], ["has another optimizer"]),
        ((trunk, planless), [], ["cannot be read as a plan"]),
        ((trunk, branch), [f"task.against={tmp_path / 'none'}"], ["task.against", "there is none of this name"]),
        ((trunk, branch), ["resume=last"], ["resume"]),
    ]:
        code, told = typed(folders, *words)
        assert code == 2, (folders, words, told)
        assert "Traceback" not in told
        assert [part for part in parts if part not in told] == [], told
    assert not list(tmp_path.glob("*forecast-*")), "nothing is written"


def test_without_runs(capsys: Any) -> None:
    assert main(["task=forecast"]) == 2
    assert "expected two run folders or more" in " ".join(capsys.readouterr().err.split())

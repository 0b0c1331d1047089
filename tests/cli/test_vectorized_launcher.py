"""The vectorised launcher, as a sweep meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrflow.cli.command import main

SWEEP = [
    "-m",
    "hydra/launcher=vectorized",
    "trainer=cpu",
    "model.widths=[8]",
    "trainer.max_steps=16",
    "task.test=false",
]


def test_a_population_reports_like_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "task.test=false",
        "hydra.launcher.measure=false",
        "optimizer=sgd",
        "optimizer.weight_decay=1",
        "schedule=constant",
    ]
    assert main([*SWEEP, *words, "optimizer.lr=0.05,1000", "seed=0,1", "model.dropout=0,0.1"]) == 1
    (sweep,) = Path("outputs/sweeps").iterdir()
    summaries = {number: json.loads((sweep / str(number) / "summary.json").read_text()) for number in range(8)}
    assert {number for number, summary in summaries.items() if summary["status"] == "diverged"} == {4, 5, 6, 7}
    assert {summary["members"] for summary in summaries.values()} == {4}  # another dropout is another model
    told = capsys.readouterr()
    assert told.out.count("\njob ") >= 8
    assert "4 of 8 jobs diverged" in told.out
    assert "try a tenth of it" in told.err


def test_an_invalid_setting_of_the_launcher_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "hydra.launcher.size=1", "hydra.launcher.measure=perhaps", "seed=0,1"]) == 2
    told = capsys.readouterr().err
    assert "hydra.launcher.size = 1" in told
    assert "hydra.launcher.measure = perhaps" in told
    assert not Path("outputs").exists()


def test_jobs_that_cannot_train_together_run_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "optimizer=sgd,lion"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "job 0 runs alone: no other job differs from it only in numbers" in told
    assert "job 1 runs alone: Lion is not one of SGD, Adam and AdamW" in told

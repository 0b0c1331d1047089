"""Lightning's Trainer as lrflow builds it: validation intervals, and what is switched off."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint, ModelSummary, ProgressBar

from lrflow.training.trainer import build_trainer
from lrflow.training.trainer_options import NoProfiler


@pytest.mark.parametrize(
    ("val_every", "options", "steps"),
    [
        ("1 epoch", {}, [7, 14, 21]),
        ("3 epochs", {}, [21]),
        ("2 epochs", {"max_epochs": 5}, [14, 28, 35]),
        ("1.5 epochs", {}, [11, 21]),  # 10.5 steps, rounded half up; 22 would come after the end, which is validated
        ("0.5 epochs", {}, [3, 6, 10, 13, 17, 20, 21]),
        ("0.01 epochs", {"max_epochs": 1}, [1, 2, 3, 4, 5, 6, 7]),
        ("5 steps", {}, [5, 10, 15, 20, 21]),
        ("10 steps", {}, [10, 20, 21]),
        ("20%", {}, [4, 8, 12, 16, 20, 21]),
        ("1%", {"max_epochs": 1}, [1, 2, 3, 4, 5, 6, 7]),
        ("1 epoch", {"accumulate": 3}, [3, 6, 9]),
        ("1 step", {"accumulate": 3, "drop_last": True}, [1, 2, 3, 4, 5, 6]),
        ("1 step", {"accumulate": 3}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # though every third step has a single batch
        ("2 steps", {"accumulate": 3}, [2, 4, 6, 8, 9]),
        ("50%", {"accumulate": 3}, [5, 9]),
        ("1.5 epochs", {"accumulate": 3, "max_epochs": 4}, [5, 10, 12]),
        ("1 epoch", {"max_epochs": -1, "max_steps": 10}, [7, 10]),
        ("4 steps", {"max_epochs": -1, "max_steps": 10}, [4, 8, 10]),
    ],
)
def test_it_validates_at_the_configured_interval(
    val_every: str, options: dict[str, Any], steps: list[int], train: Any, tmp_path: Path
) -> None:
    run = train(tmp_path, val_every=val_every, save_every=None, **options)
    assert [int(row["step"]) + 1 for row in run.rows() if row["val/loss"]] == steps


def test_lightnings_own_callbacks_are_left_out(tmp_path: Path) -> None:
    trainer = build_trainer({"accelerator": "cpu", "precision": None}, tmp_path, [], 10)
    assert not any(isinstance(one, ModelCheckpoint | ModelSummary | ProgressBar) for one in trainer.callbacks)
    assert isinstance(trainer.profiler, NoProfiler)
    assert trainer.loggers == []
    assert trainer.max_steps == -1  # None means Lightning's default
    assert trainer.num_sanity_val_steps == 0


def test_lightnings_messages_are_hidden(train: Any, tmp_path: Path, capfd: Any, recwarn: Any) -> None:
    train(tmp_path, max_epochs=1)
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")
    assert [str(warning.message) for warning in recwarn if "lightning" in warning.filename] == []
    assert logging.getLogger("pytorch_lightning").level == logging.WARNING


def test_the_profiler_measures_nothing() -> None:
    profiler = NoProfiler()
    profiler.start("a")
    with profiler.profile("b"), profiler.profile("b"):
        profiler.stop("never begun")
    assert profiler.summary() == ""

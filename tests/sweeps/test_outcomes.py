"""The outcome of a trial is the same in its run folder, in the study and in the tables."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

from lrflow.cli import main
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.study import JOURNAL, open_storage


class Net(pl.LightningModule):
    """A module that learns, with a validation loss that can be set to a non-finite value."""

    def __init__(self, at_the_end: float = 1.0, ends: int = -1) -> None:
        super().__init__()
        self.at_the_end, self.ends = at_the_end, ends
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(self.at_the_end))

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == self.ends:
            self.trainer.should_stop = True


WORDS = ["trainer=cpu", "trainer.progress=false", "model=custom", f"trust={__name__}", f"model._target_={__name__}.Net"]
WORDS += ["optimizer=sgd", "task.test=false", "trainer.max_steps=4", "sweep.sampler=grid", "hydra.sweep.dir=swept"]


def _trials() -> list[optuna.trial.FrozenTrial]:
    return open_storage(str(Path("swept") / JOURNAL)).get_all_trials(0)


def test_a_non_finite_metric_counts_as_diverged_everywhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *WORDS, "model.at_the_end=1.0,nan,inf"]) == 1
    wanted = ["finished", "diverged", "diverged"]
    summaries = [json.loads(Path(f"swept/{number}/summary.json").read_text()) for number in range(3)]
    assert [summary["status"] for summary in summaries] == wanted
    assert [summary.get("reason") for summary in summaries] == [None, "val/loss is nan", "val/loss is inf"]
    assert [trial.user_attrs["status"] for trial in _trials()] == wanted
    assert [trial.state.name for trial in _trials()] == ["COMPLETE", "PRUNED", "PRUNED"]
    with Path("swept/sweep.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == wanted
    assert "2 of 3 jobs diverged: 1, 2\n" in capsys.readouterr().out
    for number in (1, 2):  # as lrflow 0.1 wrote them
        kept = {key: value for key, value in summaries[number].items() if key not in ("reason", "error")}
        Path(f"swept/{number}/summary.json").write_text(json.dumps({**kept, "status": "finished"}))
    assert [trial.status for trial in read_sweep(Path("swept")).trials] == wanted
    assert math.isnan(read_sweep(Path("swept")).trials[1].value("val/loss") or 0.0)


def test_the_study_records_completed_and_planned_steps(here: Path) -> None:
    assert main(["-m", *WORDS, "model.ends=-1,2"]) == 3
    assert [(trial.user_attrs["steps"], trial.user_attrs["planned"]) for trial in _trials()] == [(4, 4), (2, 4)]

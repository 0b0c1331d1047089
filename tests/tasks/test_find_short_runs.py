"""Short runs that something else than lrflow ends: they are no answer, and neither complete nor diverged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

from lrflow.sweeps.study import JOURNAL, open_storage


class Net(pl.LightningModule):
    """Ends its run after a number of steps."""

    def __init__(self, ends: int = 3) -> None:
        super().__init__()
        self.ends, self.net = ends, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == self.ends:
            self.trainer.should_stop = True


HERE = __name__
BASE = ["trainer=cpu", "trainer.progress=false", "model=custom", f"trust={HERE}", f"model._target_={HERE}.Net"]
BASE += ["trainer.max_epochs=20", "data.batch_size=64", "optimizer=sgd", "task.test=false"]
Cli = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("ends", [3, 60])
def test_a_sweep_that_ended_early_gives_no_lr(ends: int, lrflow: Cli) -> None:
    done = lrflow(*BASE[:-1], "task=find", "find.steps=100", "find.sweeps=2", f"model.ends={ends}")
    assert done.returncode == 3
    assert f"a short run ended early after {ends} of 100 steps: the module Net" in done.stdout
    assert "diverges" not in done.stdout + done.stderr
    assert not list(Path("outputs").iterdir())


def test_a_short_run_that_ended_early_confirms_nothing(lrflow: Cli) -> None:
    find = ["task=find", "find.steps=100", "find.sweeps=2", "find.confirm=true", "find.confirm_length=200"]
    done = lrflow(*BASE[:-1], *find, "model.ends=150")
    assert done.returncode == 3
    assert "a short run ended early after 150 of 200 steps: the module Net" in done.stdout


def test_a_sweep_that_ended_after_divergence_gives_an_lr(lrflow: Cli) -> None:
    done = lrflow(*BASE[:-1], "task=find", "find.steps=100", "find.sweeps=2", "find.high=1e12", "model.ends=-1")
    assert done.returncode == 0, done.stdout + done.stderr


SWEEP = [
    "-m",
    "sweep.sampler=grid",
    "optimizer.lr=1e-1,1e-6",
    "hydra.sweep.dir=swept",
    "name=run",
    "hydra/sweeper=lrflow",
]
SWEEP += ["sweep.pruner=asha", "sweep.pruning.rungs=annealed"]


def _told(path: str) -> list[dict[int, float]]:
    return [trial.intermediate_values for trial in open_storage(str(Path(path) / JOURNAL)).get_all_trials(0)]


def test_a_rung_that_ended_early_prunes_nothing(lrflow: Cli) -> None:
    done = lrflow(*BASE, *SWEEP)
    assert done.returncode == 3, done.stdout + done.stderr
    for number in (0, 1):
        summary = json.loads(Path(f"swept/{number}/summary.json").read_text())
        assert summary["status"] == "ended_early"
        assert summary["reason"] == "a short run ended early after 3 of 44 steps: the module Net"
    assert _told("swept") == [{}, {}]


def test_a_sweep_that_ranks_what_ended_early_compares_such_rungs(lrflow: Cli) -> None:
    done = lrflow(*BASE, *SWEEP, "sweep.rank_ended_early=true")
    output = Path("swept/1/output.txt").read_text()
    assert "rung of 3 of 44 steps, ended early by the module Net: val/loss " in output, output
    assert done.returncode == 3
    statuses = [json.loads(Path(f"swept/{number}/summary.json").read_text())["status"] for number in (0, 1)]
    assert statuses == ["ended_early", "pruned"]
    assert [list(values) for values in _told("swept")] == [[111, 333], [111]]

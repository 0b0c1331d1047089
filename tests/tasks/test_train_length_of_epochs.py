"""The plan rules: a run makes the planned steps, whatever the length of its epochs is; or it says what ended it."""

from __future__ import annotations

import csv
import itertools
import json
import shlex
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, Timer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrflow.config import compose
from lrflow.runs import checkpoints_in

X = torch.randn(96, 8, generator=torch.Generator().manual_seed(7))
Y = X.sum(1, keepdim=True).tanh()
TABLE = TensorDataset(X, Y)


class Stream(IterableDataset[Any]):
    """The table as a stream; the passes after `passes` give nothing."""

    def __init__(self, passes: int | None = None) -> None:
        self.left = passes

    def __iter__(self) -> Iterator[Any]:
        if self.left is not None:
            self.left -= 1
        return iter(()) if self.left is not None and self.left < 0 else iter(zip(X, Y, strict=True))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return itertools.cycle(zip(X, Y, strict=True))


class Nominal(DataLoader[Any]):
    """A loader that says a length of its own."""

    said = 6

    def __len__(self) -> int:
        return self.said


class Walk:
    """An iterable that is no loader, with a state of its own; it ends before the ten batches that it says."""

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(TABLE, 16))


class Fewer:
    """A batch sampler whose every epoch has one batch less."""

    def __init__(self) -> None:
        self.batches = 7

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        self.batches -= 1
        return iter([[index] for index in range(self.batches)])


class Data(pl.LightningDataModule):
    def __init__(self, kind: str = "map", batch_size: int = 16, said: int = 6) -> None:
        super().__init__()
        self.kind, self.batch_size, self.said = kind, batch_size, said

    def train_dataloader(self) -> Any:
        if self.kind == "nominal":
            loader = Nominal(Stream(), self.batch_size)
            loader.said = self.said
            return loader
        made: dict[str, Callable[[], Any]] = {
            "map": lambda: DataLoader(TABLE, self.batch_size, shuffle=True),
            "stream": lambda: DataLoader(Stream(), self.batch_size),
            "endless": lambda: DataLoader(Endless(), self.batch_size),
            "dead": lambda: DataLoader(Stream(2), self.batch_size),
            "fewer": lambda: DataLoader(TABLE, batch_sampler=Fewer()),  # type: ignore[arg-type]
            "walk": Walk,
        }
        return made[self.kind]()

    def val_dataloader(self) -> Any:
        return DataLoader(TABLE, 32)

    test_dataloader = val_dataloader


class WithState(Data):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """So lrflow trusts its length."""


class StopAt(pl.Callback):
    def __init__(self, step: int, at_epoch: bool) -> None:
        self.step, self.at_epoch = step, at_epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.at_epoch:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step and self.at_epoch:
            trainer.should_stop = True


STOPS: dict[str, Callable[[], list[pl.Callback]]] = {
    "nothing": list,
    "early": lambda: [EarlyStopping("val/loss", patience=0, min_delta=1e3)],
    "timer": lambda: [Timer(duration=timedelta(seconds=0))],
    "batch": lambda: [StopAt(8, at_epoch=False)],
    "epoch": lambda: [StopAt(8, at_epoch=True)],
}


class Net(pl.LightningModule):
    def __init__(self, stop: str = "nothing") -> None:
        super().__init__()
        self.net, self.stop = nn.Linear(8, 1), stop
        self.epochs: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", functional.mse_loss(self.net(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", functional.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_epoch_end(self) -> None:
        self.epochs.append(self.trainer.global_step)
        Path("epochs.json").write_text(json.dumps(self.epochs))

    def configure_callbacks(self) -> list[pl.Callback]:
        return STOPS[self.stop]()


HERE = __name__
BASE = ["trainer=cpu", "trainer.progress=false", "model=custom", "data=custom", "name=run", "trainer.log_every=5"]
BASE += [f"trust={HERE}", f"model._target_={HERE}.Net", f"data._target_={HERE}.Data", "trainer.checkpoint.keep=null"]
Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture
def run(lrflow: Cli) -> Cli:
    """The base options and these, the last of a key."""
    return lambda *more: lrflow(*{word.partition("=")[0]: word for word in (*BASE, *more)}.values())


def _validated(folder: Path) -> list[int]:
    with next(folder.glob("outputs/*_run/metrics.csv")).open() as file:
        return [int(row["step"]) + 1 for row in csv.DictReader(file) if row.get("val/loss")]


LENGTHS = {
    "as it says": ("data.kind=map trainer.max_epochs=3", [6, 12, 18], [6, 12, 18]),
    "cut by max_steps": ("data.kind=map trainer.max_epochs=3 trainer.max_steps=8", [6, 8], [6, 8]),
    "more than it says": ("data.kind=nominal data.said=4 trainer.max_epochs=3", [6, 12], [6, 12]),
    "the last one cut": ("data.kind=nominal data.said=5 trainer.max_epochs=2", [6, 10], [6, 10]),
    "fewer than it says": ("data.kind=nominal data.said=10 trainer.max_epochs=2", [6, 12, 18, 20], [6, 12, 18, 20]),
    "fewer each time": ("data.kind=fewer trainer.max_epochs=2", [6, 11, 14], [6, 11, 14]),
    "no loader at all": ("data.kind=walk trainer.max_epochs=2", [6, 12, 18, 20], [6, 12, 18, 20]),
    "validated every second": (
        "data.kind=nominal data.said=10 trainer.max_epochs=2 trainer.val_every='2 epochs'",
        [6, 12, 18, 20],
        [12, 20],
    ),
    "validated by steps": (
        "data.kind=nominal data.said=10 trainer.max_epochs=2 trainer.val_every=8",
        [6, 12, 18, 20],
        [8, 16, 20],
    ),
    "its first batches": (
        "data.kind=nominal data.said=10 trainer.max_epochs=2 trainer.limit_train_batches=4",
        [4, 8],
        [4, 8],
    ),
    # Beside the default of 20 epochs.
    "a stream": ("data.kind=stream trainer.max_steps=15", [6, 12, 15], [6, 12, 15]),
    "an endless one": ("data.kind=endless trainer.max_steps=9 trainer.val_every=5", [9], [5, 9]),
    "its first batches make an epoch": (
        "data.kind=endless trainer.max_epochs=2 trainer.limit_train_batches=4",
        [4, 8],
        [4, 8],
    ),
    "a smoke run": ("data.kind=endless fast=true trainer.max_steps=2000", [8], [8]),
    "a smoke run of samples": ("data.kind=endless fast=true trainer.max_samples=5000", [8], [8]),
    "accumulated": (
        "data.kind=nominal data.said=10 trainer.max_epochs=2 trainer.accumulate_grad_batches=4",
        [2, 4, 6],
        [2, 4, 6],
    ),
}


@pytest.mark.parametrize(("options", "epochs", "validated"), LENGTHS.values(), ids=LENGTHS)
def test_the_planned_steps_are_made_over_the_epochs_that_there_are(
    options: str, epochs: list[int], validated: list[int], run: Cli, tmp_path: Path
) -> None:
    done = run("trainer.checkpoint.monitor=null", *shlex.split(options))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "epochs.json").read_text()) == epochs
    assert [int(path.stem[5:]) for path in checkpoints_in(next(tmp_path.glob("outputs/*_run/checkpoints")))] == epochs
    assert _validated(tmp_path) == validated
    summary = json.loads(next(tmp_path.glob("outputs/*_run/summary.json")).read_text())
    assert (summary["status"], summary["steps"]) == ("finished", epochs[-1])


def test_one_line_reports_epochs_of_another_length(run: Cli, caplog: pytest.LogCaptureFixture) -> None:
    run("data.kind=fewer", "trainer.max_epochs=3")
    told = [record.getMessage() for record in caplog.records if "had " in record.getMessage()]
    assert told == [
        "epoch 1 had 6 steps instead of 7, as expected from the length of the training data; the run still makes "
        "the 21 steps of the plan, over as many epochs as needed"
    ]
    caplog.clear()
    run("data.kind=map", "trainer.max_epochs=3", "trainer.max_steps=8")
    assert not [record for record in caplog.records if "had " in record.getMessage()]


def test_a_trusted_length_may_be_wrong(run: Cli, tmp_path: Path) -> None:
    """Data that save their own state are not looked ahead of, which would save that of a batch too many."""
    done = run("data.kind=walk", f"data._target_={HERE}.WithState", "trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "epochs.json").read_text()) == _validated(tmp_path) == [6, 12, 18, 20]


def test_a_run_with_epochs_of_another_length_is_as_long_when_it_goes_on(run: Cli, tmp_path: Path) -> None:
    options = ["data.kind=nominal", "data.said=10", "trainer.max_epochs=2", "trainer.checkpoint.every=6"]
    assert run(*options).returncode == 0
    folder = next(tmp_path.glob("outputs/*_run"))
    for checkpoint in ("step-0000012.ckpt", "step-0000018.ckpt"):
        done = run(*options, f"resume={folder}/checkpoints/{checkpoint}", "name=again")
        assert done.returncode == 0, done.stderr
        assert "20 steps, 2 epochs of 10" in done.stdout
        assert json.loads((tmp_path / "epochs.json").read_text())[-1] == 20


def test_a_stream_limited_only_by_epochs_raises_an_error(run: Cli) -> None:
    done = run("data.kind=stream", "trainer.max_epochs=3")
    assert done.returncode == 2
    assert "trainer.max_epochs = 3" in done.stderr
    assert "trainer.max_steps=N" in done.stderr
    assert "trainer.limit_train_batches=N, which makes an epoch N batches long" in done.stderr


@pytest.mark.parametrize("task", ["train", "plan"])
def test_all_options_that_need_a_length_are_reported_at_once(task: str, run: Cli) -> None:
    intervals = ["trainer.checkpoint.every=0.5 epochs", "trainer.val_every=1.5 epochs", "schedule.warmup=2 epochs"]
    done = run(f"task={task}", "data.kind=endless", "trainer.max_steps=30", *intervals)
    assert done.returncode == 2
    for interval in intervals:
        assert interval.replace("=", " = ") in done.stderr
    assert done.stderr.count("give steps ('500 steps') or a share of the run ('10%')") == 3


def test_a_smoke_run_reports_that_a_search_is_not_shortened() -> None:
    for options, told in (
        (["task=find"], 1),
        (["task=find", "find=stability"], 0),
        (["optimizer.lr=auto"], 1),
        ([], 0),
    ):
        remarks = compose([*options, "fast=true"]).remarks
        assert len([remark for remark in remarks if "find.steps" in remark]) == told


ENDS = {
    "early": (
        "model.stop=early",
        12,
        "the callback EarlyStopping: Monitored metric val/loss did not improve",
    ),
    "timer": ("model.stop=timer", 0, "the time limit of the callback Timer"),
    "batch": ("model.stop=batch", 8, "the callback StopAt"),
    "epoch": ("model.stop=epoch trainer.val_every=20", 12, "the callback StopAt"),
    "dead": (
        "data.kind=dead trainer.max_steps=40 trainer.checkpoint.every=50 trainer.val_every=20",
        12,
        "epoch 3 had no",
    ),
}


@pytest.mark.parametrize(("options", "made", "why"), ENDS.values(), ids=ENDS)
def test_a_run_that_ends_early_reports_why_and_is_validated_and_tested(
    options: str, made: int, why: str, run: Cli, tmp_path: Path
) -> None:
    done = run("trainer.max_epochs=6", *options.split())
    planned = 40 if "max_steps" in options else 36
    told = " ".join(f"{done.stdout} {done.stderr}".split())
    assert f"ended early after {made} of {planned} steps: " in told
    assert why in told
    assert done.returncode == 3
    with next(tmp_path.glob("outputs/*_run/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert any(row.get("test/loss") for row in rows)
    summary = json.loads(next(tmp_path.glob("outputs/*_run/summary.json")).read_text())
    assert (summary["status"], summary["steps"], summary["planned"]) == ("ended_early", made, planned)
    assert {"val/loss", "test/loss"} <= summary["metrics"].keys()


def test_the_plan_of_ones_own_data_is_that_of_the_processes_that_train(run: Cli) -> None:
    """Without starting them."""
    options = ["data.kind=map", "trainer.max_epochs=5", "task=plan"]
    assert "run       30 steps, 5 epochs of 6" in run(*options).stdout
    done = run(*options, "trainer.strategy=ddp", "trainer.devices=2")
    assert "run       15 steps, 5 epochs of 3" in done.stdout


def test_a_plan_of_ones_own_data_is_as_quiet_as_their_training(run: Cli) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run("task=plan", "data.kind=map").returncode == 0
    assert not [one for one in caught if "LeafSpec" in str(one.message)]

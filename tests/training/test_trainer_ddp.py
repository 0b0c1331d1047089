"""Two real processes on the CPU: plan, horizon and LRs are right, and a stopped job resumes exactly."""

from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copies
import numpy as np
import pytest
import torch

from lrflow.plan import Plan
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.machine import varies

pytestmark = pytest.mark.slow

Start = Callable[..., copies.Process]

SCRIPT = """
import os, signal, sys, time
import torch
from pytorch_lightning import Callback
from lrflow import stops
from lrflow.config import compose
from lrflow.errors import LrflowError
from lrflow.tasks import prepare, train
from lrflow.launch import rank

class Look(Callback):
    def on_train_batch_start(self, trainer, *_):
        while trainer.global_step == int(os.environ.get("WAIT_AT", -1)) and not stops.requested():
            time.sleep(0.01)
        if trainer.global_step == int(os.environ.get("KILL_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, trainer, module):  # the test after it makes all ranks equal
        torch.save(module.state_dict(), f"rank{rank()}.pt")

fit = prepare.build_trainer
def build_and_add(*settings):
    trainer = fit(*settings)
    trainer.callbacks.append(Look())
    return trainer
prepare.build_trainer = build_and_add

if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        train.run(compose(sys.argv[1:]))
    except LrflowError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""

UNFREEZING = (
    "layers.rules=[{name: head, match: 'head.*'}, {name: upper, match: 'stage2.*', unfreeze: 1 epoch, "
    "unfreeze_warmup: 3}, {name: lower, match: '*', unfreeze: 13, lr: 0.5x}]"
)

OPTIONS = [
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=4",
    "trainer.accumulate_grad_batches=2",
    "trainer.val_every=0.5 epochs",
    "trainer.checkpoint.every=3 steps",
    "trainer.log_every=2",
    "data.batch_size=32",
    UNFREEZING,
]


class Jobs:
    """Starts runs of the script in a folder."""

    def __init__(self, folder: Path, python: Start) -> None:
        self.folder, self.python = folder, python
        (folder / "job.py").write_text(SCRIPT)

    def start(self, *more: str, leads: bool = False, **environment: str) -> copies.Process:
        given = {word.partition("=")[0]: word for word in (*OPTIONS, f"output={self.folder}/runs", *more)}
        return self.python("job.py", *given.values(), cwd=self.folder, leads=leads, **environment)

    def run(self, *more: str, **environment: str) -> tuple[int | None, str]:
        """Return the exit code and stderr."""
        job = self.start(*more, **environment)
        _, told = job.communicate(timeout=200)
        return job.returncode, told

    @property
    def folders(self) -> list[Path]:
        return sorted((self.folder / "runs").iterdir())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if not varies(key)} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(python: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted run on two devices; the ranks' weights are two folders above it."""
    jobs = Jobs(tmp_path_factory.mktemp("whole"), python)
    code, told = jobs.run()
    assert code == 0, told
    (folder,) = jobs.folders
    return folder


def test_the_horizon_and_the_lr_are_those_of_the_plan(whole: Path) -> None:
    plan = Plan.from_dict(json.loads((whole / "plan.json").read_text()))
    batches = math.ceil(math.ceil(1257 / 2) / 32)  # of each device; 1,797 digits less 180 and 360 held out
    assert plan.horizon.steps_per_epoch == math.ceil(batches / 2)
    assert plan.horizon.steps == 4 * plan.horizon.steps_per_epoch
    training = [row for row in rows(whole) if row["train/loss"]]
    assert [int(row["step"]) for row in training] == list(range(plan.horizon.steps))
    for index, name in enumerate(plan.names):
        planned = plan.lr(np.arange(plan.horizon.steps))[:, index].tolist()
        assert [float(row[f"lr/{name}"]) for row in training] == planned
        assert [float(row[f"lr_planned/{name}"]) for row in training] == planned
    assert len(plan.names) > 1


def test_both_processes_end_with_the_same_weights(whole: Path) -> None:
    first, second = (torch.load(whole.parents[1] / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_validates_on_all_data(whole: Path) -> None:
    accuracy = [float(row["val/accuracy"]) for row in rows(whole) if row["val/accuracy"]]
    assert len(accuracy) == 8
    assert accuracy[-1] > 0.9
    assert json.loads((whole / "summary.json").read_text())["status"] == "finished"


def test_a_stopped_and_a_killed_job_resume_exactly(whole: Path, python: Start, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, python)
    job = jobs.start(leads=True, WAIT_AT="12")  # or it may end before the signal

    def begun() -> bool:
        return any(len(path.read_text().splitlines()) > 5 for path in tmp_path.glob("runs/*/metrics.csv"))

    assert job.interrupt(signal.SIGINT, begun, group=True) == 130  # as a terminal's Ctrl-C
    _, told = job.communicate()
    assert "stopped as asked after" in told
    assert "Traceback" not in told
    assert "Connection" not in told
    (folder,) = jobs.folders
    stopped = read_checkpoint(max(folder.glob("checkpoints/step-*.ckpt")))["global_step"]
    steps = read_checkpoint(max(whole.glob("checkpoints/step-*.ckpt")))["global_step"]
    assert stopped < steps

    code, _ = jobs.run(f"resume.from={folder}", KILL_AT=str((stopped + steps) // 2))
    assert code == -signal.SIGKILL
    code, told = jobs.run(f"resume.from={folder}")
    assert code == 0, told
    assert jobs.folders == [folder]

    assert rows(folder) == rows(whole)
    ends = [read_checkpoint(max(path.glob("checkpoints/step-*.ckpt"))) for path in (folder, whole)]
    assert all(torch.equal(tensor, ends[1]["state_dict"][name]) for name, tensor in ends[0]["state_dict"].items())
    for rank in (0, 1):
        weights = [torch.load(at / f"rank{rank}.pt", weights_only=True) for at in (tmp_path, whole.parents[1])]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_groups_are_unfrozen_on_all_devices_at_once(python: Start, tmp_path: Path) -> None:
    """DDP reduces the gradients required when it was built; the reference is one process with twice the batch."""
    for name, options in {"two": ["data.batch_size=32"], "one": ["data.batch_size=64", "trainer.devices=1"]}.items():
        (tmp_path / name).mkdir()
        shortened = ["trainer.max_epochs=2", "data.drop_last=true", "optimizer=sgd", "model.dropout=0"]
        shortened += ["clip=skip", "clip.window=4", "clip.sigma=1"]  # by the loss and the norm of all devices
        code, told = Jobs(tmp_path / name, python).run(*shortened, *options)
        assert code == 0, told
    first, second = (torch.load(tmp_path / f"two/rank{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = torch.load(tmp_path / "one/rank0.pt", weights_only=True)
    assert first.keys() == alone.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-5)
    folders = [next((tmp_path / name / "runs").iterdir()) for name in ("two", "one")]
    for column in ("train/grad_norm", "clip/factor"):
        both, single = ([float(row[column]) for row in rows(folder) if row[column]] for folder in folders)
        assert both == pytest.approx(single, rel=1e-3)
    assert {*both} == {0, 1}


def test_an_effective_batch_is_divided_anew_on_other_devices(python: Start, tmp_path: Path) -> None:
    """A run of one process continues on two from within an epoch: same plan, same examples in each step."""
    jobs = Jobs(tmp_path, python)
    given = ["data.effective_batch_size=128", "trainer.accumulate_grad_batches=null", "trainer.max_epochs=2"]
    given += ["optimizer=sgd", "model.dropout=0", "trainer.checkpoint.keep=null"]
    code, told = jobs.run(*given, "trainer=cpu", "name=one")
    assert code == 0, told
    (one,) = jobs.folders
    resumed = [f"resume.from={one}/checkpoints/step-0000006.ckpt", f"output={tmp_path}/two"]
    code, told = jobs.run(*given, *resumed)
    assert code == 0, told
    (two,) = (tmp_path / "two").iterdir()
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (one, two)]
    assert [plan.pop("batch")["accumulated"] for plan in plans] == [4, 2]
    assert plans[0] == plans[1]
    alone, both = ({row["step"]: row for row in rows(folder) if row["train/loss"]} for folder in (one, two))
    assert [*both] == [str(step) for step in range(6, 20)]
    for step, row in both.items():
        assert {name: row[name] for name in row if name[:2] == "lr"} == {
            n: alone[step][n] for n in row if n[:2] == "lr"
        }
        close = 1e-6 if int(step) < 8 else 0.02  # sums in another order grow apart
        assert float(row["train/loss"]) == pytest.approx(float(alone[step]["train/loss"]), rel=close)


OWN = """
import os
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

def rank():
    return int(os.environ.get("LOCAL_RANK", 0))

class Stream(IterableDataset):
    def __init__(self, batches):
        self.batches, self.epoch = batches, 0

    def __iter__(self):
        count = self.batches[rank()][min(self.epoch, len(self.batches[rank()]) - 1)]
        self.epoch += 1
        return iter(list(TensorDataset(torch.ones(16 * count, 8), torch.ones(16 * count, 1))))

    def __len__(self):
        return 16 * 4

class Data(pl.LightningDataModule):
    def __init__(self, rows=72, batches=None):
        super().__init__()
        self.rows, self.batches = rows, batches

    def setup(self, stage=None):
        self.table = TensorDataset(torch.ones(self.rows, 8), torch.ones(self.rows, 1))
        self.stream = Stream(self.batches) if self.batches else None

    def train_dataloader(self):
        return DataLoader(self.stream or self.table, 16, shuffle=None if self.stream else True)

    def val_dataloader(self):
        return DataLoader(self.table, 16)

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(8, 1)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", functional.mse_loss(self.net(batch[0]), batch[1]), sync_dist=True)
"""
OWN_OPTIONS = "trainer=ddp trainer.accelerator=cpu trainer.devices=2 trainer.progress=false trust=lab "
OWN_OPTIONS += "model=custom model._target_=lab.Net data=custom data._target_=lab.Data optimizer=sgd name=run"


def own(python: Start, folder: Path, *more: str) -> tuple[int | None, str, str]:
    """Starts a run on custom data; returns exit code and output."""
    (folder / "lab.py").write_text(OWN)
    words = {word.partition("=")[0]: word for word in (*OWN_OPTIONS.split(), *more)}
    job = python("-m", "lrflow", *words.values(), cwd=folder)
    out, told = job.communicate(timeout=200)
    return job.returncode, out, told


def trained(folder: Path) -> tuple[int, dict[str, Any]]:
    """Return the steps with a recorded loss, and the summary."""
    (run,) = folder.glob("outputs/*_run")
    return len([row for row in rows(run) if row["train/loss"]]), json.loads((run / "summary.json").read_text())


def test_the_plan_of_custom_data_has_the_trained_steps(python: Start, tmp_path: Path) -> None:
    options = ["trainer.max_epochs=3", "trainer.accumulate_grad_batches=2"]
    (tmp_path / "plan").mkdir()
    code, out, told = own(python, tmp_path / "plan", *options, "task=plan")
    assert code == 0, told
    code, _, told = own(python, tmp_path, *options)
    assert code == 0, told
    batches = math.ceil(72 / 2 / 16)  # of each process, the last of them with few rows
    expected = 3 * math.ceil(batches / 2)
    assert f"run       {expected} steps, 3 epochs of {expected // 3}" in out
    assert trained(tmp_path) == (expected, trained(tmp_path)[1])
    assert trained(tmp_path)[1]["steps"] == trained(tmp_path)[1]["planned"] == expected


STREAMS = {
    # batches of each process in each epoch, batches of a step, and the steps that are made of 12 batches
    "dead in one": ("[[4,4,4],[4,0]]", 1, 4, "ended_early"),
    "dead in one, accumulated": ("[[4,4,4],[4,0]]", 2, 2, "ended_early"),
    "dead in both, accumulated": ("[[4,4,0],[4,4,0]]", 2, 4, "ended_early"),
    "longer in one": ("[[4],[3]]", 1, 12, "finished"),
}


@pytest.mark.parametrize(("batches", "accumulate", "steps", "status"), STREAMS.values(), ids=STREAMS)
def test_processes_agree_on_where_an_epoch_ends(
    batches: str, accumulate: int, steps: int, status: str, python: Start, tmp_path: Path
) -> None:
    length = [f"trainer.max_steps={12 // accumulate}", f"trainer.accumulate_grad_batches={accumulate}"]
    options = [f"data.batches={batches}", *length]
    code, out, told = own(python, tmp_path, *options, "trainer.val_every=1 epoch")
    made, summary = trained(tmp_path)
    assert (made, summary["steps"], summary["status"]) == (steps, steps, status), told
    assert code == (0 if status == "finished" else 3)
    if status == "ended_early":
        assert "had no batch for a step in one of the processes" in out

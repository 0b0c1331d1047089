"""Two real processes on the CPU validate, save and end at the same average, and resume from it exactly."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copies
import pytest
import torch

from lrflow.config import compose
from lrflow.tasks import evaluate
from lrflow.training.checkpoint_file import read_checkpoint

pytest.importorskip("schedulefree")
pytestmark = pytest.mark.slow

Start = Callable[..., copies.Process]

SCRIPT = """
import sys
import torch
from lrflow.config import compose
from lrflow.tasks import train
from lrflow.training.trainer import rank

supply, trained = train.supply_optimizer, []
def supply_and_keep(module, *settings):
    trained.append(module)
    supply(module, *settings)
train.supply_optimizer = supply_and_keep

if __name__ == "__main__":
    torch.set_num_threads(1)
    train.run(compose(sys.argv[1:]))
    torch.save(trained[0].state_dict(), f"rank{rank()}.pt")
"""
OPTIONS = (
    "optimizer=schedule_free_adamw",
    "model=cnn",
    "model.widths=[8,16]",
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.val_every=0.5 epochs",
    "trainer.checkpoint.every=3 steps",
    "trainer.checkpoint.keep=null",
    "trainer.batch_norm_batches=5",
    "task.test=false",
)


def run(python: Start, folder: Path, *more: str) -> Path:
    """The run folder of a job with two processes."""
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(SCRIPT)
    job = python("job.py", *OPTIONS, f"output={folder}/runs", *more, cwd=folder)
    _, told = job.communicate(timeout=200)
    assert job.returncode == 0, told
    (made,) = (folder / "runs").iterdir()
    return made


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.fixture(scope="module")
def whole(python: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(python, tmp_path_factory.mktemp("whole"))


def test_both_processes_end_at_the_saved_average(whole: Path) -> None:
    saved = read_checkpoint(max(whole.glob("checkpoints/step-*.ckpt")))["state_dict"]
    for rank in (0, 1):
        assert equal(load(whole.parents[1] / f"rank{rank}.pt"), saved)
    statistics = {name: value for name, value in saved.items() if name.endswith("num_batches_tracked")}
    assert {int(value) for value in statistics.values()} == {5}


def test_it_resumes_exactly(whole: Path, python: Start, tmp_path: Path) -> None:
    cut = whole / "checkpoints/step-0000009.ckpt"
    resumed = run(python, tmp_path, f"resume.from={cut}")
    one, other = (read_checkpoint(max(folder.glob("checkpoints/step-*.ckpt"))) for folder in (whole, resumed))
    assert one["global_step"] == other["global_step"] == 20
    assert equal(one["state_dict"], other["state_dict"])
    assert equal(one["lrflow"]["training"], other["lrflow"]["training"])


def test_one_process_evaluates_to_the_same_result(whole: Path) -> None:
    with (whole / "metrics.csv").open(newline="") as file:
        found = {int(row["step"]) + 1: row for row in csv.DictReader(file) if row["val/accuracy"]}
    for step in (15, 20):
        checkpoint = whole / f"checkpoints/step-{step:07d}.ckpt"
        asked = ["task=evaluate", "task.split=val", f"task.from={checkpoint}", "trainer.accelerator=cpu"]
        again = evaluate.run(compose(["model=cnn", "model.widths=[8,16]", *asked]))
        assert again["val/accuracy"] == pytest.approx(float(found[step]["val/accuracy"]), abs=1e-7)
        assert again["val/loss"] == pytest.approx(float(found[step]["val/loss"]), rel=1e-5)

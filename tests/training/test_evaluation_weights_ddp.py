"""Two real processes on the CPU validate, save and end at the same average, and resume from it exactly."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import copies
import pytest
import torch

from lrflow.config import compose
from lrflow.tasks import evaluate, train
from lrflow.training.checkpoint_file import read_checkpoint

pytestmark = pytest.mark.slow

Start = Callable[..., copies.Process]

SCRIPT = """
import sys
import torch
from lrflow.config import compose
from lrflow.tasks import prepare, train
from lrflow.launch import rank

supply, trained = prepare.supply_optimizer, []
def supply_and_keep(module, *settings):
    trained.append(module)
    supply(module, *settings)
prepare.supply_optimizer = supply_and_keep

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


def run(python: Start, folder: Path, *more: str, options: Sequence[str] = OPTIONS) -> Path:
    """The run folder of a job with two processes."""
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(SCRIPT)
    job = python("job.py", *options, f"output={folder}/runs", *more, cwd=folder)
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
    pytest.importorskip("schedulefree")
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


AVERAGED = (
    "optimizer=sgd",
    "optimizer.lr=0.2",
    "optimizer.momentum=0.9",
    "schedule=constant",
    "model.widths=[8]",
    "model.dropout=0",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "trainer.max_steps=10",
    "trainer.val_every=5 steps",
    "trainer.checkpoint.every=5 steps",
    "trainer.checkpoint.keep=null",
    "task.test=false",
)
AVERAGES = {
    "ema": ("average=ema", "average.decay=0.8"),
    "swa": ("average=swa", "average.start=3 steps", "average.every=2 steps"),
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_is_that_of_one_process_in_both(kind: str, python: Start, tmp_path: Path) -> None:
    """One process has the same batches: two shares of 32 examples are a batch of 64."""
    options = (*AVERAGED, *AVERAGES[kind])
    two = (*options, "trainer=ddp", "data.batch_size=32")
    made = run(python, tmp_path / "two", options=two)
    cut, last = (made / f"checkpoints/step-{step:07d}.ckpt" for step in (5, 10))
    saved = read_checkpoint(last)
    (average,) = saved["lrflow"]["average"]["averages"]
    assert equal({name: saved["state_dict"][name] for name in average}, average)
    for rank in (0, 1):
        assert equal(load(tmp_path / f"two/rank{rank}.pt"), saved["state_dict"])
    assert any(not torch.equal(one, average[name]) for name, one in saved["lrflow"]["training"].items())

    alone = train.run(compose([*options, "trainer=cpu", "data.batch_size=64", f"output={tmp_path}/one"]))
    (expected,) = read_checkpoint(Path(alone["folder"], "checkpoints", last.name))["lrflow"]["average"]["averages"]
    for name, value in average.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    with (made / "metrics.csv").open(newline="") as file:
        *_, found = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert found == pytest.approx(alone["val/loss"], rel=1e-4)

    again = run(python, tmp_path / "again", f"resume.from={cut}", options=two)
    resumed = read_checkpoint(again / "checkpoints" / last.name)
    assert equal(resumed["state_dict"], saved["state_dict"])
    assert equal(resumed["lrflow"]["average"]["averages"][0], average)
    assert equal(resumed["lrflow"]["training"], saved["lrflow"]["training"])

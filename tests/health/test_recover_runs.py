"""Runs of the real command that return to an earlier state: on two devices, killed on the way, with a bad shard."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copies
import pytest
import torch

from lrflow.training.machine import varies

pytestmark = pytest.mark.slow

SCRIPT = """
import os, signal, sys
import torch
from pytorch_lightning import Callback
from lrflow.config import compose
from lrflow.data.digits import Digits
from lrflow.errors import LrflowError
from lrflow.health import Finding, TooLow, detector
from lrflow.tasks import prepare, train
from lrflow.launch import rank

load = Digits.load
def poisoned(self):
    examples, more = load(self)
    for row in map(int, os.environ["POISONED"].split()):
        examples.inputs[row] = torch.nan
    return examples, more
Digits.load = poisoned

detector._LEAST_INTERVAL = 4
def judge(self, history):
    return Finding(self.kind, history.step, 0, "a test", {"factor": 2.0}) if history.step >= 16 else None
TooLow.judge = judge

class Look(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == int(os.environ.get("KILL_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, trainer, module):
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

OPTIONS = [
    "trainer=cpu",
    "trainer.progress=false",
    "trainer.max_steps=24",
    "trainer.val_every=8 steps",
    "trainer.checkpoint.every=5",
    "trainer.log_every=4",
    "data.batch_size=64",
    "health=recover",
    "health.recover.every=3",
    "health.on_too_low=raise",
]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.accumulate_grad_batches=2"]


class Jobs:
    """Starts runs of the script in a folder."""

    def __init__(self, folder: Path, python: Callable[..., copies.Process], *options: str) -> None:
        folder.mkdir()
        self.folder, self.python = folder, python
        self.options = {word.partition("=")[0]: word for word in [*OPTIONS, *options]}
        (folder / "job.py").write_text(SCRIPT)

    def run(self, *more: str, **environment: str) -> tuple[int | None, str]:
        """Return the exit code, and what was printed."""
        words = [*self.options.values(), "output=runs", *more]
        job = self.python("job.py", *words, cwd=self.folder, **{"POISONED": "40", **environment})
        out, errors = job.communicate(timeout=200)
        return job.returncode, out + errors

    @property
    def run_folder(self) -> Path:
        (found,) = (self.folder / "runs").iterdir()
        return found

    def record(self) -> tuple[Any, ...]:
        """Return what is equal for equal runs."""
        with (self.run_folder / "metrics.csv").open(newline="") as file:
            rows = [{name: cell for name, cell in row.items() if not varies(name)} for row in csv.DictReader(file)]
        rows = [row for row in rows if any(cell for name, cell in row.items() if name != "step")]
        summary = json.loads((self.run_folder / "summary.json").read_text())
        return rows, {key: value for key, value in summary.items() if key != "seconds"}


@pytest.mark.parametrize(("options", "kills"), [(tuple(TWO), (18,))], ids=["two devices"])
def test_a_batch_of_nan_is_survived_the_lr_is_raised_and_a_killed_run_ends_the_same(
    options: tuple[str, ...], kills: tuple[int, ...], python: Callable[..., copies.Process], tmp_path: Path
) -> None:
    whole, killed = Jobs(tmp_path / "whole", python, *options), Jobs(tmp_path / "killed", python, *options)
    code, printed = whole.run()
    assert code == 0, printed
    assert "the loss is nan; rolled back to step" in printed
    rows, summary = whole.record()
    events = summary["recoveries"]
    assert summary["status"] == "finished"
    assert {event["factor"] for event in events} == {1.0}
    assert [(event["step"], event["factor"]) for event in summary["adjustments"]] == [(16, 2.0)]
    skipped = sorted({step for event in events for step in event["skipped"]})
    training = [row for row in rows if row["lr/decay"]]
    assert [int(row["step"]) for row in training] == list(range(24))
    if not options:  # with accumulation the other batches of a window are trained on
        assert [int(row["step"]) for row in training if not row["train/loss"]] == skipped
    source = []
    for kill in kills:
        code, printed = killed.run(*source, KILL_AT=str(kill))
        assert code == -signal.SIGKILL, printed
        source = [f"resume.from={killed.run_folder}"]
    code, printed = killed.run(*source)
    assert code == 0, printed
    assert killed.record() == whole.record()
    ends = [
        [torch.load(jobs.folder / f"rank{rank}.pt", weights_only=True) for rank in range(1 + bool(options))]
        for jobs in (whole, killed)
    ]
    first = ends[0][0]
    assert all(torch.equal(tensor, end[name]) for name, tensor in first.items() for job in ends for end in job)

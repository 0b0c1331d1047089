"""A batch that changes over a run: the weights of a plain torch loop, what is recorded, and how it is resumed."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional

from lrflow import assemble
from lrflow.config import compose
from lrflow.data import ordered
from lrflow.errors import ConfigError
from lrflow.tasks import train
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.machine import varies

# 40 training examples: epochs of 4, 3, 2 and 2 steps; the batch changes within an epoch, and between two
RUN = ["data=digits", "data.val_size=1397", "data.test_size=360", "data.batch_size=10", "trainer.max_epochs=4"]
RUN += ["schedule.batch=[[0, 10], [60 samples, 20], [3 epochs, 30]]", "model=mlp", "model.widths=[8]"]
RUN += ["optimizer=sgd", "optimizer.weight_decay=0", "scaling=linear", "scaling.reference=10", "schedule.warmup=1"]
RUN += [
    "trainer=cpu",
    "trainer.progress=false",
    "trainer.log_every=3",
    "task.test=false",
    "trainer.batch_norm_batches=0",
]
RUN += ["trainer.checkpoint.every=1", "trainer.checkpoint.keep=null", "trainer.val_every='30 samples'"]
SIZES = [10] * 6 + [20] * 3 + [30] * 2
"""The batch of each step as it is counted; the last step of an epoch takes what is left."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def config_of(output: Path, *more: str, folder: Path | None = None) -> Any:
    config = compose([*{word.partition("=")[0]: word for word in (*RUN, f"output={output}", *more)}.values()])
    config._run_folder = folder
    return config


def end(folder: Path) -> dict[str, Any]:
    return read_checkpoint(sorted((folder / "checkpoints").glob("step-*.ckpt"))[-1])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: text for name, text in row.items() if not varies(name)} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a whole run, by how its batches are made."""
    made: dict[str, Path] = {}

    def run(by: str) -> Path:
        if by not in made:
            output = tmp_path_factory.mktemp(by)
            made[by] = Path(train.run(config_of(output, f"schedule.batch_by={by}", "model.dropout=0.2"))["folder"])
        return made[by]

    return run


@pytest.mark.parametrize("by", ["accumulation", "loader"])
def test_the_run_is_that_of_a_plain_loop(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}
    build = assemble.build_module

    def building(*arguments: Any, **options: Any) -> Any:
        module = build(*arguments, **options)
        started.update({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return module

    monkeypatch.setattr(assemble, "build_module", building)
    own = [f"schedule.batch_by={by}", "model.dropout=0"]
    folder = Path(train.run(config_of(tmp_path, *own))["folder"])
    config = config_of(tmp_path, "schedule.batch=null", "scaling=none", "scaling.reference=null", "model.dropout=0")
    data, module = assemble.load_data(config), build(config)
    module.load_state_dict(started)
    module.train()
    rates = [float(row["lr/decay"]) for row in rows(folder) if row.get("lr/decay")]
    step = 0
    for epoch in range(4):
        batches = list(ordered(data.train_dataloader(), config.seed, epoch=epoch))
        inputs, targets = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
        taken = 0
        while taken < len(targets):
            size = min(SIZES[step], len(targets) - taken)
            parts = size // 10 if by == "accumulation" else 1
            module.zero_grad()
            for part in range(parts):
                at = slice(taken + part * size // parts, taken + (part + 1) * size // parts)
                (functional.cross_entropy(module(inputs[at]), targets[at]) / parts).backward()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter -= rates[step] * parameter.grad
            taken, step = taken + size, step + 1
    assert step == len(rates)
    for name, tensor in end(folder)["state_dict"].items():
        torch.testing.assert_close(tensor, module.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_what_a_run_records(whole: Callable[[str], Path]) -> None:
    for by in ("accumulation", "loader"):
        trained = [row for row in rows(whole(by)) if row["batch_size"]]
        assert [int(float(row["batch_size"])) for row in trained] == SIZES
        rates = [float(row["lr/decay"]) for row in trained]
        assert rates[6] > rates[5]  # twice the batch, at a slightly lower LR of the schedule
        validated = [int(row["step"]) + 1 for row in rows(whole(by)) if row["val/loss"]]
        assert validated == [3, 6, 8, 9, 10, 11]  # after 30, 60, 100, 120, 150 and 180 samples


class Dies(pl.Callback):
    """Kills the process within the accumulation window of a step, or before its only batch."""

    def __init__(self, step: int) -> None:
        self.step, self.batches = step, 0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.batches += 1
            if self.batches == trainer.accumulate_grad_batches:
                os.kill(os.getpid(), signal.SIGKILL)


def check_end(folder: Path, never: Path, start: int) -> None:
    """Check that a resumed run recorded what the uninterrupted one did from a step on, and has its plan and weights."""
    resumed, expected = end(folder), end(never)
    made, as_before = (
        [{name: text for name, text in row.items() if text} for row in rows(one)] for one in (folder, never)
    )
    assert made == [row for row in as_before if int(row["step"]) >= start]
    assert resumed["lrflow"]["plan"] == expected["lrflow"]["plan"]
    assert all(torch.equal(resumed["state_dict"][name], one) for name, one in expected["state_dict"].items())


@pytest.mark.parametrize(("by", "step"), [("accumulation", 6), ("loader", 9)])
def test_a_run_that_is_killed_where_its_batch_changes_goes_on_as_if_it_was_not(
    by: str, step: int, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill is in the first accumulation window of the new size, or before the first batch of it."""
    own, folder = [f"schedule.batch_by={by}", "model.dropout=0.2"], tmp_path / "killed"

    def work() -> None:
        fit = pl.Trainer.fit

        def dying(trainer: Any, *arguments: Any, **options: Any) -> None:
            trainer.callbacks.append(Dies(step))
            fit(trainer, *arguments, **options)

        monkeypatch.setattr(pl.Trainer, "fit", dying)
        train.outcome(config_of(tmp_path, *own, folder=folder))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted((folder / "checkpoints").glob("step-*.ckpt"))[-1].stem == f"step-{step:07}"
    train.run(config_of(tmp_path, *own, f"resume.from={folder}"))
    check_end(folder, whole(by), 0)


@pytest.mark.parametrize(("by", "steps"), [("accumulation", (5, 8)), ("loader", (6, 10))])
def test_a_run_goes_on_from_the_checkpoint_of_any_step(
    by: str, steps: tuple[int, ...], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Before and after each change, within an epoch (6) and between two (8), and before the short step of one (10)."""
    own = [f"schedule.batch_by={by}", "model.dropout=0.2"]
    for step in steps:
        path = whole(by) / "checkpoints" / f"step-{step:07}.ckpt"
        folder = Path(train.run(config_of(tmp_path, *own, f"resume.from={path}"))["folder"])
        check_end(folder, whole(by), step)


def test_a_resumed_run_keeps_the_batches_of_its_past(whole: Callable[[str], Path], tmp_path: Path) -> None:
    source = shutil.copytree(whole("accumulation"), tmp_path / "whole")
    at = f"resume.from={source / 'checkpoints' / 'step-0000005.ckpt'}"
    own = ["schedule.batch_by=accumulation", "model.dropout=0.2", at]
    for changed, expected in (
        ("schedule.batch=[[0, 10], [40 samples, 20]]", "the batch 10, and would now have 10, from step 4 on 20"),
        ("schedule.batch=[[0, 20]]", "would now have 20"),
    ):
        with pytest.raises(ConfigError, match=r"schedule\.batch") as raised:
            train.run(config_of(tmp_path, *own, changed))
        assert expected in str(raised.value)
    # what is to come may change, and the run may become longer
    later = "schedule.batch=[[0, 10], [60 samples, 40]]"
    longer = config_of(tmp_path, *own, later, "trainer.max_epochs=6", "resume.horizon=rescale")
    folder = Path(train.run(longer)["folder"])
    assert [int(float(row["batch_size"])) for row in rows(folder) if row["batch_size"]] == [10] + [40] * 5
    assert end(folder)["lrflow"]["plan"]["horizon"]["batch"] == {
        "starts": [0, 6], "sizes": [10, 40], "epoch": 40, "dropped": 0
    }  # fmt: skip


def test_a_run_with_one_batch_is_resumed_with_several(tmp_path: Path) -> None:
    flat = ["scaling=none", "scaling.reference=null", "schedule=constant", "trainer.max_epochs=null"]
    one = ["schedule.batch=null", "trainer.max_steps=6", "trainer.val_every=1 epoch"]
    first = Path(train.run(config_of(tmp_path, *flat, *one))["folder"])
    more = ["schedule.batch=[[0, 10], [60 samples, 20]]", "trainer.max_steps=9", "resume.horizon=rescale"]
    folder = Path(train.run(config_of(tmp_path, *flat, *more, f"resume.from={first}"))["folder"])
    assert end(folder)["lrflow"]["position"] == {"epoch": 3, "batch": 0, "seen": 12}

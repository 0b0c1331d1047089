"""optimizer.lr=auto: found, written down, and trained with to the last step."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.config import compose, load_config
from lrflow.errors import ConfigError, LrflowError
from lrflow.tasks import find, train
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.state import random_state

SMALL = ("find.steps=120", "find.sweeps=2", "model=logistic", "optimizer=sgd", "data.batch_size=128")


def column(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_the_lr_that_is_found_is_saved_printed_and_trained_with(lrflow: Callable, tmp_path: Path) -> None:
    done = lrflow(*SMALL, "optimizer.lr=auto", "trainer.max_epochs=3", "name=a")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    config = load_config(folder / "config.yaml")
    lr = config.optimizer.lr
    assert 0.02 < lr < 5
    assert config.find.found.lr == lr
    assert config.find.found.interval[0] <= lr <= config.find.found.interval[1]
    assert config.find.found.how == "range test of 2 sweeps"
    assert f"LR {json.loads((folder / 'find.json').read_text())['lr']:.3g}" in done.stdout
    used, planned = column(folder, "lr/decay"), column(folder, "lr_planned/decay")
    assert used == planned
    assert max(used) == pytest.approx(lr)

    done = lrflow("resume=last", "trainer.max_epochs=4", "resume.horizon=rescale")
    assert done.returncode == 0, done.stderr
    assert "range test" not in done.stdout
    assert "confidence" not in done.stdout
    assert load_config(folder / "config.yaml").find.found.lr == lr
    assert column(folder, "lr/decay")[: len(used)] == used


def test_the_run_equals_that_with_the_lr_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, "trainer.max_epochs=1", "trainer.progress=false"]
    found = Path(train.run(compose([*options, "optimizer.lr=auto", "name=found"]))["folder"])
    lr = load_config(found / "config.yaml").optimizer.lr
    typed = Path(train.run(compose([*options, f"optimizer.lr={lr}", "name=typed"]))["folder"])
    for name in ("train/loss", "lr/decay", "val/loss"):
        assert column(found, name) == column(typed, name)
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (found, typed)]
    unused = "has no effect in task=train without task=find, find.check=true or optimizer.lr=auto"
    assert plans[1].pop("warnings") == [f"find.steps {unused}", f"find.sweeps {unused}"]
    assert plans[0] == plans[1]


def test_without_a_confident_result_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose([*SMALL, "find.high=1e-4", "optimizer.lr=auto"])
    with pytest.raises(LrflowError, match=r"found no LR with confidence: .*the loss still falls at the highest LR"):
        train.run(config)
    assert not list(tmp_path.glob("outputs/*/checkpoints/*"))


def test_a_run_that_checks_its_lr_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, "trainer.max_epochs=1", "trainer.progress=false", "optimizer.lr=100"]
    looked = Path(train.run(compose([*options, "find.check=true", "name=looked"]))["folder"])
    message = capsys.readouterr().out
    assert re.search(r"100 is \S+ times the (top of the interval|LR at which the loss diverged)", message)
    plain = Path(train.run(compose([*options, "name=plain"]))["folder"])
    assert column(looked, "train/loss") == column(plain, "train/loss")
    assert (looked / "find.png").is_file()

    bound = [option for option in options if not option.startswith("find.")]
    train.run(compose([*bound, "find=stability", "find.check=true", "trainer.max_steps=2"]))
    assert "share of it that the configured LR uses" in capsys.readouterr().out


def test_a_range_test_leaves_no_trace(same: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, batch norms, the optimizer, the generators and the place in the data: the checkpoint is the same."""
    monkeypatch.chdir(tmp_path)
    options = ["model=cnn", "model.widths=[4, 8]", "model.dropout=0.3", "optimizer=momentum", "trainer.progress=false"]
    options += ["trainer.max_epochs=null", "trainer.max_steps=6", "find.steps=40", "find.sweeps=2"]
    saved = {}
    for name in ("plain", "looked"):
        folder = train.run(compose([*options, f"find.check={str(name == 'looked').lower()}", f"name={name}"]))["folder"]
        saved[name] = read_checkpoint(Path(folder) / "checkpoints/step-0000006.ckpt")
    plain, looked = saved.values()
    for kind in ("state_dict", "optimizer_states", "loops", "lr_schedulers"):
        assert same(looked[kind], plain[kind]), kind
    for kind in ("random", "position"):
        assert same(looked["lrflow"][kind], plain["lrflow"][kind]), kind


def test_a_range_test_does_not_change_later_random_numbers(
    same: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    before, variables = random_state(), dict(os.environ)
    folder = find.run(compose(["task=find", "find.steps=40", "find.sweeps=1", "model=logistic"]))["folder"]
    assert same(random_state(), before)
    assert dict(os.environ) == variables
    assert not torch.are_deterministic_algorithms_enabled()
    written = {path.name for path in Path(folder).iterdir()}
    assert {"find.csv", "find.json", "find.png", "report.html"} <= written


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        (("task=plan",), "optimizer.lr", "find the LR with task=find"),
        (("find=stability",), "optimizer.lr", "find=range"),
        (("resume=run.ckpt",), "optimizer.lr", "already has an LR"),
        (("optimizer=muon",), "optimizer.lr", "several optimizers"),
        (("layers={rules: [{name: a, match: '*', lr: 0.1}]}",), "layers.rules[0].lr", "write a multiple, such as 10x"),
    ],
)
def test_incompatible_options_are_reported(
    arguments: tuple[str, ...], key: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.ckpt").touch()
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        compose(["optimizer.lr=auto", *arguments])
    assert key in {problem.key for problem in caught.value.problems}

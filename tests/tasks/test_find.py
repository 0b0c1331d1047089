"""task=find through the real command line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from lrflow import assemble
from lrflow.assemble import build_data
from lrflow.config import compose
from lrflow.data import Digits
from lrflow.errors import ConfigError, LrflowError
from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.tasks import find
from lrflow.training.loaders import set_up_data
from lrflow.training.trainer import build_trainer
from lrflow.training.trainer_options import lightning_options
from lrflow.tuning.short_runs import short_plan

SMALL = ("task=find", "find.steps=120", "find.sweeps=2", "model=logistic", "data.batch_size=128")


def folder(path: Path) -> Path:
    (found,) = (path / "outputs").iterdir()
    return found


@pytest.mark.usefixtures("rendered")
def test_a_range_test(lrflow: Callable, tmp_path: Path) -> None:
    done = lrflow(*SMALL, "optimizer=sgd")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder(tmp_path) / "find.json").read_text())
    assert found["interval"][0] <= found["lr"] <= found["interval"][1]
    assert 0.02 < found["lr"] < 5  # softmax regression on digits at batch 128 takes 0.1 to 2
    assert f"LR {found['lr']:.3g}" in done.stdout
    rows = list(csv.reader((folder(tmp_path) / "find.csv").open()))
    assert rows[0] == ["lr", "loss_0", "loss_1"]
    assert len(rows) == 121
    assert float(rows[1][1]) == pytest.approx(2.3, abs=0.5)
    assert rows[60][1] != rows[60][2]
    assert (folder(tmp_path) / "find.png").stat().st_size > 10_000
    assert (folder(tmp_path) / "config.yaml").exists()


def test_short_runs_confirm_the_result(lrflow: Callable, tmp_path: Path) -> None:
    small = [option for option in SMALL if not option.startswith("find.sweeps=")]
    done = lrflow(*small, "optimizer=sgd", "find.confirm=true", "find.confirm_runs=4", "trainer.max_epochs=6")
    assert done.returncode == 0, done.stderr
    assert (folder(tmp_path) / "find.csv").read_text().startswith("lr,loss_0,loss_1\n")  # two sweeps are enough here
    assert compose(["task=find"]).find.sweep_count == 5
    found = json.loads((folder(tmp_path) / "find.json").read_text())
    assert found["range_test"]["marks"]["halfway"] == found["range_test"]["lr"]
    tried = dict(found["tried"])
    assert 3 <= len(tried) <= 4
    assert min(tried) <= found["interval"][0] <= found["lr"] <= found["interval"][1] <= max(tried)
    assert found["steps"] > 240
    assert f"LR {found['lr']:.3g}  as good from" in done.stdout
    assert not list(folder(tmp_path).glob("checkpoints/*"))


def test_a_short_run_follows_the_whole_schedule_scaled() -> None:
    options = ["schedule=wsd", "schedule.warmup=2 epochs", "schedule.cooldown=40", "layers=layer_decay"]
    config = compose([*options, "optimizer.lr=0.1"])
    groups = assemble.build_groups(config, assemble.build_module(config))
    whole = Horizon(400, 20)
    plan = Plan.compile(groups, assemble.build_schedule(config), whole)
    short = short_plan(config, groups, 0.5, whole, 100)
    assert short.horizon.steps == 100
    np.testing.assert_allclose(short.lr(np.arange(100)), 5 * plan.lr(np.arange(0, 400, 4)))


def test_a_range_test_of_routed_groups_is_reproducible(lrflow: Callable, tmp_path: Path) -> None:
    for output in ("one", "two"):
        done = lrflow("task=find", "find.steps=40", "find.sweeps=1", "optimizer=muon", f"output={output}")
        assert done.returncode == 0, done.stderr
        assert "not confident: one sweep" in done.stdout
        assert "confidence" not in done.stdout
        assert "takes it" not in done.stdout
    one, two = (next((tmp_path / output).iterdir()) / "find.csv" for output in ("one", "two"))
    assert one.read_text() == two.read_text()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_stability_bound(lrflow: Callable, tmp_path: Path, optimizer: str) -> None:
    done = lrflow("task=find", "find=stability", f"optimizer={optimizer}", "model=logistic")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder(tmp_path) / "find.json").read_text())
    assert found["limit"] == pytest.approx(2.0 if optimizer == "sgd" else 38.0)
    assert found["ceiling"] == pytest.approx(found["limit"] / found["top"])
    assert f"stable up to {found['ceiling']:.3g}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("optimizer=lbfgs",), "searches for the length of each step itself"),
        (("optimizer=prodigy",), "estimates the LR itself"),
        (("find.low=1", "find.high=0.1"), "find.high"),
        (("find.steps=3",), "at least 40"),
        (("find.confirm_runs=2",), "at least 3"),
        (("find.confirm_length=0",), "above 0"),
        (("find.sweps=3",), "did you mean find.sweeps?"),
        (("find=stability", "optimizer=lion"), "no stability bound is known"),
        (("find.kind=rnage",), "did you mean range?"),
    ],
)
def test_impossible_options_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        find.run(compose(["task=find", *arguments]))
    assert not list(tmp_path.glob("outputs/*"))


def test_a_range_that_starts_above_divergence_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    high = ["find.low=1e25", "find.high=1e35", "find.steps=40", "find.sweeps=1"]
    with pytest.raises(ConfigError, match="diverges within the first steps") as caught:
        find.run(compose(["task=find", "optimizer=sgd", "model=logistic", *high]))
    assert [(problem.key, problem.hint) for problem in caught.value.problems] == [("find.low", "start lower")]


@pytest.mark.parametrize("how", ["range", "stability"])
def test_nan_in_the_data_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(Digits, "normalise", lambda self, inputs: inputs.float() * float("nan"))
    monkeypatch.chdir(tmp_path)
    small = ["find.steps=40", "find.sweeps=1"] if how == "range" else []
    with pytest.raises(LrflowError, match="look for NaN in the data"):
        find.run(compose(["task=find", f"find={how}", "optimizer=sgd", "model=logistic", *small]))


def test_the_bound_of_softmax_regression_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the Hessian is (I - 11'/C) / C, as a Kronecker product with the second moments of the inputs and 1."""
    monkeypatch.chdir(tmp_path)
    options = ["task=find", "find=stability", "optimizer=sgd", "optimizer.lr=0.5", "optimizer.weight_decay=0"]
    config = compose([*options, "model=logistic", "data.drop_last=true", "find.batches=19"])
    ceiling = find.run(config)["ceiling"]
    trainer = build_trainer(lightning_options(config), tmp_path, [], 50)
    batches = islice(set_up_data(build_data(config), trainer, config.seed).train_dataloader(), 19)
    inputs = torch.cat([batch[0].flatten(1) for batch in batches]).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    top = float(torch.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1]) / 10
    assert ceiling == pytest.approx(2 / top, rel=1e-3)

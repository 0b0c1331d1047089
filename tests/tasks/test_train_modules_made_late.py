"""Modules that make their parts in hooks: all of them are grouped, trained, resumed, evaluated; none is made twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.training.checkpoint_file import read_checkpoint

Done = subprocess.CompletedProcess[str]

PACKAGE = '''
import pytorch_lightning as pl, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Data(pl.LightningDataModule):
    outputs = None
    def setup(self, stage=None):
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(7))
        self.set = TensorDataset(x, x.sum(1, keepdim=True).tanh())
        self.outputs = 1  # known once the data have been read
    def train_dataloader(self): return DataLoader(self.set, 8, shuffle=True)
    def val_dataloader(self): return DataLoader(self.set, 8)
    def test_dataloader(self): return DataLoader(self.set, 8)

class Base(pl.LightningModule):
    calls = ()
    def loss(self, batch): return nn.functional.mse_loss(self.head(torch.relu(self.body(batch[0]))), batch[1])
    def training_step(self, batch, i): return self.loss(batch)
    def validation_step(self, batch, i): self.log("val/loss", self.loss(batch))
    def test_step(self, batch, i): self.log("test/loss", self.loss(batch))
    def on_train_start(self): self.was = {n: p.detach().clone() for n, p in self.named_parameters()}
    def on_train_end(self):
        assert all((p != self.was[n]).any() for n, p in self.named_parameters()), "a parameter did not move"
        print(" ".join(("moved", *self.was, *self.calls)) + "\\n", end="", flush=True)  # in one piece, beside others

class Setup(Base):
    """The head in setup(), without a guard."""
    def __init__(self): super().__init__(); self.body = nn.Linear(8, 4)
    def setup(self, stage):
        self.calls += (stage,); self.head = nn.Linear(4, self.trainer.datamodule.outputs)

class LazySetup(Setup):
    """A lazy head in setup(), without a guard."""
    def setup(self, stage): self.head = nn.LazyLinear(self.trainer.datamodule.outputs)

class Configure(Base):
    """Everything in configure_model(), without a guard."""
    def configure_model(self):
        self.calls += ("model",); self.body = nn.Linear(8, 4); self.head = nn.Linear(4, 1)

class Wide(Base):
    def __init__(self, width: int = 16): super().__init__(); self.width = width
    def configure_model(self): self.body = nn.Linear(8, self.width); self.head = nn.LazyLinear(1)

class Lazy(Base):
    def __init__(self):
        super().__init__(); self.steps = 0
        self.body = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Dropout(0.5)); self.head = nn.LazyLinear(1)
    def loss(self, batch): self.steps += 1; return super().loss(batch)
    def on_train_start(self): assert self.steps == 0; super().on_train_start()

class Unused(Lazy):
    def __init__(self): super().__init__(); self.other = nn.LazyLinear(3)

class Later(Setup):
    def on_train_start(self): self.extra = nn.Linear(2, 2)

class MidRun(Setup):
    def on_train_batch_end(self, out, batch, i):
        if i == 1: self.head.scale = nn.Parameter(torch.ones(1))

class Replaced(Setup):
    def on_train_start(self): self.body = nn.Linear(8, 4)

class Unfrozen(Setup):
    def __init__(self): super().__init__(); self.body.requires_grad_(False)
    def on_train_start(self): self.body.requires_grad_(True)
'''
DATA = ["trust=late_parts", "data=custom", "data._target_=late_parts.Data", "model=custom", "trainer.progress=false"]


@pytest.fixture
def late(lrflow: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs `python -m lrflow` on one of the modules above."""
    (tmp_path / "late_parts.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(module: str, *overrides: str) -> Done:
        return lrflow(*DATA, f"model._target_=late_parts.{module}", "trainer.max_epochs=2", *overrides)

    return run


def newest(tmp_path: Path) -> Path:
    return max(tmp_path.glob("outputs/*"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("module", "calls"), [("Setup", "fit"), ("Configure", "model"), ("Lazy", "")], ids=["setup", "configure", "lazy"]
)
def test_what_hooks_make_is_in_the_plan_and_trains(
    module: str, calls: str, late: Callable[..., Done], tmp_path: Path
) -> None:
    groups = "layers.rules=[{name: body, match: 'body.*'}, {name: head, match: 'head.*', lr: 10x}]"
    planned = late(module, "task=plan", groups)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads((newest(tmp_path) / "plan.json").read_text())
    assert [(group["name"], group["tensors"]) for group in plan["groups"]] == [
        ("body", 4 if module == "Lazy" else 2),
        ("head", 2),
    ]
    trained = late(module, groups)
    assert trained.returncode == 0, trained.stderr
    moved = next(line for line in trained.stdout.splitlines() if line.startswith("moved")).split()
    assert {"body.weight", "head.weight"} <= set(moved) or {"body.0.weight", "head.weight"} <= set(moved)
    assert [word for word in moved[1:] if "." not in word] == calls.split()  # once, though Lightning asks too
    assert plan["groups"] == json.loads((newest(tmp_path) / "config.yaml").with_name("plan.json").read_text())["groups"]


@pytest.mark.parametrize("module", ["Setup", "Configure", "Lazy", "LazySetup"])
def test_they_are_tested_resumed_and_evaluated_with_what_they_learned(
    module: str, late: Callable[..., Done], tmp_path: Path
) -> None:
    whole = late(module, "trainer.checkpoint.every=1 epoch")
    assert whole.returncode == 0, whole.stderr
    folder = newest(tmp_path)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics["test/loss"] == metrics["val/loss"]  # a head made anew for the test would give another
    evaluated = late(module, "task=evaluate", f"task.from={folder}", "task.split=test")
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"{metrics['test/loss']:.6g}" in evaluated.stdout
    first = min(folder.glob("checkpoints/step-*.ckpt"))
    resumed = late(module, f"resume.from={first}", "name=again")
    assert resumed.returncode == 0, resumed.stderr
    weights = [
        read_checkpoint(max(run.glob("checkpoints/step-*.ckpt")))["state_dict"] for run in (folder, newest(tmp_path))
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    started = late(module, f"model.init_from={folder}", "task=plan")
    assert started.returncode == 0, started.stderr


@pytest.mark.parametrize(
    ("module", "names", "code"),
    [
        ("Later", "extra.weight, extra.bias", 2),
        ("MidRun", "step 2: model: 1 parameter was created, replaced or unfrozen", 1),
        ("MidRun", "head.scale", 1),
        ("Replaced", "body.weight, body.bias", 2),
        ("Unfrozen", "body.weight, body.bias", 2),
        ("Unused", "other.weight, other.bias", 2),
    ],
)
def test_parameters_that_would_not_train_end_the_run_and_are_named(
    module: str, names: str, code: int, late: Callable[..., Done]
) -> None:
    done = late(module)
    assert done.returncode == code
    assert ("Nothing was run" in done.stderr) == (code == 2)  # it is said only where it is true
    assert names in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_range_test_and_a_look_at_the_curvature_see_them(late: Callable[..., Done]) -> None:
    for find in ("find=range find.sweeps=1 find.steps=40 find.high=0.1", "find=stability"):
        done = late("Setup", "task=find", *find.split())
        assert done.returncode == 0, done.stderr


def test_mup_completes_the_narrower_models_too(late: Callable[..., Done], tmp_path: Path) -> None:
    done = late("Wide", "layers=mup", "layers.base={width: 4}", "optimizer=adam")
    assert done.returncode == 0, done.stderr
    plan = json.loads((newest(tmp_path) / "plan.json").read_text())
    assert {group["name"]: group["scale"] for group in plan["groups"]}["output"] == 0.25


@pytest.mark.slow
def test_two_processes(tmp_path: Path, python: Callable[..., Any]) -> None:
    (tmp_path / "late_parts.py").write_text(PACKAGE)
    overrides = [*DATA, "trainer.max_epochs=2", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    for module in ("Setup", "Configure"):
        process = python("-m", "lrflow", *overrides, f"model._target_=late_parts.{module}", cwd=tmp_path)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert out.count("moved body.weight body.bias head.weight head.bias") == 2

"""`import lightning as L`: its modules and data modules train unchanged, or are refused in one clear message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

PROJECT = """
import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities import rank_zero_only
from lightning.fabric.utilities.seed import seed_everything
from torch.utils.data import DataLoader, TensorDataset

class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return (self.net(batch[0]) - 3).abs().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/own_steps", self.steps)

class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(12, 4)), 4)

    val_dataloader = train_dataloader

class Duck(torch.nn.Linear):
    def training_step(self, batch, batch_idx): ...
"""
TRAIN = ["trust=proj", "data=custom", "data._target_=proj.Data", "model=custom"]
START = "import sys\n{first}\nfrom lrflow.cli import main\nsys.exit(main())\n"


@pytest.fixture
def train(python: Callable[..., Any], tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    """Trains the project in a process of its own, which does something first."""
    (tmp_path / "proj.py").write_text(PROJECT)

    def run(first: str = "", model: str = "Lit", *more: str) -> CompletedProcess[str]:
        (tmp_path / "start.py").write_text(START.format(first=first))
        process = python(
            "start.py",
            *TRAIN,
            f"model._target_=proj.{model}",
            "trainer.max_epochs=1",
            "output=out",
            *more,
            cwd=tmp_path,
        )
        out, err = process.communicate(timeout=240)
        return CompletedProcess([], process.returncode, out, err)

    return run


ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lightning":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize("first", ["", ABSENT], ids=["installed", "not installed"])
@pytest.mark.parametrize("loss", [[], ["model.loss=cross_entropy"]], ids=["no loss", "a loss"])
def test_its_own_training_step_is_what_trains(
    train: Callable[..., CompletedProcess[str]], tmp_path: Path, first: str, loss: list[str]
) -> None:
    done = train(first, "Lit", *loss)
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("out/*/summary.json")
    record = json.loads(summary.read_text())
    assert (record["status"], record["metrics"]["val/own_steps"]) == ("finished", 3)


def test_the_real_package_imported_before_is_refused_in_one_message(
    train: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    done = train("import lightning")
    assert done.returncode == 2
    assert "is a LightningDataModule of the package lightning" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/*"))


def test_whatever_has_a_training_step_is_no_plain_module(train: Callable[..., CompletedProcess[str]]) -> None:
    done = train("", "Duck", "model.in_features=4", "model.out_features=1", "model.loss=mse")
    assert done.returncode == 2
    assert "Duck has a training_step, but it is not a LightningModule" in " ".join(done.stderr.split())


def test_it_is_the_same_class_under_every_name() -> None:
    import importlib

    import pytorch_lightning

    from lrflow.imports import is_of_lightning, original_name

    assert original_name("lightning.pytorch.callbacks.Timer") == "pytorch_lightning.callbacks.Timer"
    assert original_name("lightning.fabric") == "lightning_fabric"
    assert original_name("lightning_fabric.x") == "lightning_fabric.x"
    assert importlib.import_module("pytorch_lightning").__spec__.name == "pytorch_lightning"
    assert not is_of_lightning(pytorch_lightning.LightningModule, "LightningModule")


def test_a_callback_may_be_named_by_either_package() -> None:
    from lrflow.config import locate

    assert locate("lightning.pytorch.callbacks.EarlyStopping") is locate("pytorch_lightning.callbacks.EarlyStopping")

"""Losses and metrics that a config chooses, from the config to the best checkpoint and to a resumed run."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.tasks import train

SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=6", "trainer.progress=false", "data.batch_size=128"]
SHORT += ["trainer.checkpoint.every=2 steps", "trainer.checkpoint.keep=null", "trainer.val_every=2 steps"]


def run(folder: Path, *more: str) -> dict[str, Any]:
    return train.run(compose([*SHORT, f"output={folder}", *more]))


def test_class_weights_and_metrics_are_resumed_exactly(tmp_path: Path) -> None:
    chosen = [
        "model.loss={name: cross_entropy, label_smoothing: 0.1, weight: [1,1,1,1,1,2,2,2,2,2]}",
        "model.metrics={f1: {}, top3: {_target_: torchmetrics.Accuracy, top_k: 3, average: micro}}",
        "trainer.checkpoint.monitor=val/top3",
    ]
    whole = run(tmp_path / "whole", *chosen)
    folder = Path(whole["folder"])
    checkpoint = torch.load(folder / "checkpoints/step-0000004.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if not name.startswith("model.")]
    again = run(tmp_path / "again", *chosen, f"resume.from={folder}/checkpoints/step-0000004.ckpt")
    assert {**whole, "folder": ""} == {**again, "folder": ""}
    with (folder / "metrics.csv").open(newline="") as file:
        top3 = {int(row["step"]): float(row["val/top3"]) for row in csv.DictReader(file) if row["val/top3"]}
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert len(top3) == 3
    assert top3[best["global_step"] - 1] == max(top3.values())
    assert 0 < whole["val/f1"] < whole["val/top3"] < 1


class Focal:
    """The focal loss (Lin et al., 2017)."""

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        losses = functional.cross_entropy(output, target, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()


def mean_margin(output: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    return functional.multi_margin_loss(scale * output, target)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_losses")
    for one in (Focal, mean_margin):
        monkeypatch.setattr(one, "__module__", "own_losses")
        setattr(module, one.__name__, one)
    monkeypatch.setitem(sys.modules, "own_losses", module)
    monkeypatch.setenv("LRFLOW_TRUST", "own_losses")


@pytest.mark.parametrize(
    "loss",
    ["{_target_: own_losses.Focal, gamma: 1.5}", "{_target_: own_losses.mean_margin, _partial_: true, scale: 2}"],
)
def test_a_loss_of_ones_own(loss: str, tmp_path: Path, own: None) -> None:
    found = run(tmp_path, f"model.loss={loss}", "model.metrics=[f1]", "trainer.max_steps=2", "task.test=false")
    assert {"val/loss", "val/accuracy", "val/f1"} <= found.keys()


def test_a_loss_of_ones_own_is_checked(own: None) -> None:
    with pytest.raises(ConfigError, match=r"model\.loss\.gama.*takes no gama"):
        compose(["model.loss={_target_: own_losses.Focal, gama: 1}"])


def test_two_classes_as_one_label(tmp_path: Path) -> None:
    facts = ["recipe=logistic/breast_cancer", "model.outputs=1", "trainer.max_steps=4", "trainer.progress=false"]
    config = compose([*facts, "model.loss=bce_with_logits", "model.metrics=[auroc]", f"output={tmp_path}"])
    assert config.model.plain()["outputs"] == 1
    assert train.run(config)["val/auroc"] > 0.5

"""`optimizer=module`: an existing LightningModule has the LRs that plain Lightning gives it, planned and resumed."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import glue_like
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lrflow.config import compose
from lrflow.data import Digits
from lrflow.errors import ConfigError
from lrflow.tasks import plan, train

LR = 4e-3
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
)


class Lit(pl.LightningModule):
    """A module as in public projects: no weight decay for norms and biases, a lower LR for the backbone."""

    def __init__(self, kind: str = "linear", lr: float = LR) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        kind, lr = self.hparams["kind"], self.hparams["lr"]
        if kind == "head":
            return torch.optim.SGD(self.head.parameters(), lr, momentum=0.9)
        if kind == "several":
            return [torch.optim.SGD(part.parameters(), lr) for part in (self.backbone, self.head)]
        if kind == "foreign":
            return torch.optim.SGD([*self.parameters(), nn.Parameter(torch.zeros(2))], lr)
        if kind == "still":
            return torch.optim.SGD(
                [{"params": self.head.parameters()}, {"params": self.backbone.parameters(), "lr": 0.0}], lr
            )
        decayed = [one for one in self.parameters() if one.ndim > 1]
        others = [one for one in self.parameters() if one.ndim <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0, "lr": lr / 3}]
        optimizer = torch.optim.AdamW(groups, lr, weight_decay=0.1)
        total = int(self.trainer.estimated_stepping_batches)
        made: dict[str, Callable[[], Any]] = {
            "alone": lambda: None,
            "linear": lambda: {
                "scheduler": LambdaLR(optimizer, lambda step: linear(step, 4, total)), "interval": "step"
            },
            "two": lambda: {
                "scheduler": LambdaLR(optimizer, [lambda step: linear(step, 4, total), lambda step: 0.9**step]),
                "interval": "step",
            },
            "epochs": lambda: StepLR(optimizer, 1, 0.5),
            "every other epoch": lambda: {"scheduler": StepLR(optimizer, 1, 0.1), "frequency": 2},
            "every third step": lambda: {"scheduler": StepLR(optimizer, 2, 0.7), "interval": "step", "frequency": 3},
            "one cycle": lambda: {
                "scheduler": OneCycleLR(optimizer, [lr, lr / 3], total_steps=total), "interval": "step"
            },
            "restarts": lambda: {"scheduler": CosineAnnealingWarmRestarts(optimizer, 5), "interval": "step"},
            "sequence": lambda: {
                "scheduler": SequentialLR(
                    optimizer, [LinearLR(optimizer, 0.1, 1.0, 5), CosineAnnealingLR(optimizer, total - 5)], [5]
                ),
                "interval": "step",
            },
            "plateau": lambda: {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val/loss"},
            "two lists": lambda: StepLR(optimizer, 1, 0.5),
            "a list of dicts": lambda: {"scheduler": StepLR(optimizer, 2, 0.5), "interval": "step", "frequency": 1},
            "not returned": lambda: setattr(self, "own", StepLR(optimizer, 1)),
        }  # fmt: skip
        scheduler = made[kind]()
        if "list" in kind:
            return [optimizer], [scheduler]
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}


class OwnStep(Lit):
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step(self.current_epoch)


class NoOptimizer(Lit):
    def configure_optimizers(self) -> Any:
        return None


def linear(step: int, warmup: int, total: int) -> float:
    """As transformers' get_linear_schedule_with_warmup."""
    return step / warmup if step < warmup else max(0.0, (total - step) / max(1, total - warmup))


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_lit")
    for one in (Lit, OwnStep, NoOptimizer):
        monkeypatch.setattr(one, "__module__", "own_lit")
        setattr(module, one.__name__, one)
    monkeypatch.setitem(sys.modules, "own_lit", module)
    monkeypatch.setenv("LRFLOW_TRUST", "own_lit")


def words(folder: Path, *more: str) -> list[str]:
    given = ["model=custom", "model._target_=own_lit.Lit", "optimizer=module", "trainer=cpu", "trainer.max_epochs=3"]
    given += ["data.batch_size=256", "trainer.progress=false", f"output={folder}", *more]
    given += [] if any(word.startswith("task=") for word in more) else ["task.test=false"]
    return list({word.partition("=")[0]: word for word in given}.values())


class Rates(pl.Callback):
    """The LRs of the groups at each optimizer step."""

    def __init__(self) -> None:
        self.found: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.found.append([group["lr"] for group in optimizer.param_groups])


def plain(folder: Path, kind: str, accumulate: int) -> list[list[float]]:
    """The LRs of plain Lightning."""
    rates = Rates()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, accumulate_grad_batches=accumulate, callbacks=[rates], limit_val_batches=0,
        default_root_dir=folder, **QUIET,
    )  # fmt: skip
    trainer.fit(Lit(kind), datamodule=Digits(batch_size=256))
    return rates.found


@pytest.mark.parametrize(
    ("kind", "accumulate"),
    [
        ("linear", 1), ("linear", 2), ("two", 1), ("epochs", 1), ("epochs", 2), ("every other epoch", 1),
        ("every third step", 1), ("one cycle", 1), ("restarts", 1), ("sequence", 1), ("alone", 1), ("two lists", 1),
        ("a list of dicts", 1),
    ],
)  # fmt: skip
def test_the_lrs_are_those_of_plain_lightning(
    kind: str, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain(tmp_path, kind, accumulate)
    rates = Rates()
    monkeypatch.setattr(pl.LightningModule, "configure_callbacks", lambda self: [rates])
    more = [f"model.kind={kind}", f"trainer.accumulate_grad_batches={accumulate}", "trainer.limit_val_batches=0"]
    train.run(compose(words(tmp_path, *more, "trainer.checkpoint.monitor=null")))
    if kind in ("one cycle", "restarts", "sequence"):  # no multiple of the peak is this LR to its last bit
        assert torch.allclose(*(torch.tensor(each, dtype=torch.float64) for each in (rates.found, expected)), 1e-15, 0)
    else:
        assert rates.found == expected


def test_a_module_of_a_public_project_is_planned_and_trained_as_it_is(lrflow: Any, tmp_path: Path) -> None:
    given = ["trust=glue_like", "model=custom", "model._target_=glue_like.Classifier", "data=custom", "trainer=cpu"]
    given += ["data._target_=glue_like.Rows", "optimizer=module", "schedule=module", "trainer.max_epochs=3"]
    where = {"PYTHONPATH": os.pathsep.join(sys.path)}
    planned = lrflow(*given, "task=plan", "output=planned", **where)
    assert planned.returncode == 0, planned.stderr
    done = lrflow(*given, "output=runs", **where)
    assert done.returncode == 0, done.stderr
    assert "did you mean val_loss?" in done.stdout + done.stderr

    pl.seed_everything(0, verbose=False)
    rates, module = Rates(), glue_like.Classifier()
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, callbacks=[rates], default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, datamodule=glue_like.Rows())
    (table,), (rows,) = tmp_path.glob("planned/*/plan.csv"), tmp_path.glob("runs/*/metrics.csv")
    with table.open(newline="") as file:
        assert [[float(row[name]) for name in ("decay", "no_decay")] for row in csv.DictReader(file)] == rates.found
    with rows.open(newline="") as file:
        found = [[row[f"lr/{name}"] for name in ("decay", "no_decay")] for row in csv.DictReader(file)]
    assert [[float(one) for one in row] for row in found if row[0]] == rates.found
    (last,) = tmp_path.glob("runs/*/checkpoints/step-0000030.ckpt")
    state = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(state[name], one) for name, one in module.state_dict().items())


def test_the_plan_has_the_modules_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan.run(compose(words(tmp_path, "task=plan", "model.kind=epochs", "optimizer.lr=0.5")))
    groups = json.loads((Path(found["folder"]) / "plan.json").read_text())["groups"]
    rows = [(group["name"], group["lr"], group["weight_decay"], group["tensors"]) for group in groups]
    assert rows == [("decay", LR / 2, 0.1, 2), ("no_decay", LR / 6, 0.0, 4)]
    assert "optimizer: AdamW of Lit.configure_optimizers with StepLR" in capsys.readouterr().out
    with (Path(found["folder"]) / "plan.csv").open(newline="") as file:
        assert [float(row["decay"]) for row in csv.DictReader(file)][::5] == [LR / 2, LR / 4, LR / 8]


def test_a_schedule_replaces_the_scheduler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan.run(compose(words(tmp_path, "task=plan", "schedule=constant")))
    assert "LambdaLR is replaced by the schedule" in capsys.readouterr().out
    with (Path(found["folder"]) / "plan.csv").open(newline="") as file:
        assert {(float(row["decay"]), float(row["no_decay"])) for row in csv.DictReader(file)} == {(LR, LR / 3)}


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    saved = ["trainer.checkpoint.every=5 steps", "trainer.checkpoint.keep=null"]
    whole = Path(train.run(compose(words(tmp_path / "whole", *saved)))["folder"])
    point = whole / "checkpoints/step-0000005.ckpt"
    again = Path(train.run(compose(words(tmp_path / "again", *saved, f"resume.from={point}")))["folder"])
    one, other = (torch.load(run / "checkpoints/step-0000015.ckpt", weights_only=True) for run in (whole, again))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])
    states = [saved["optimizer_states"][0] for saved in (one, other)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert [group["betas"] for group in states[0]["param_groups"]] == [(0.9, 0.999)] * 2
    for at, state in states[0]["state"].items():
        assert all(torch.equal(state[name], states[1]["state"][at][name]) for name in state)


def test_a_resumed_run_keeps_its_length(tmp_path: Path) -> None:
    folder = train.run(compose(words(tmp_path, "trainer.max_epochs=1")))["folder"]
    with pytest.raises(ConfigError, match="was planned for 5 steps, and the run would have 10"):
        train.run(compose(words(tmp_path, "trainer.max_epochs=2", f"resume.from={folder}", "resume.horizon=extend")))


def test_what_the_optimizer_leaves_out_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train.run(compose(words(tmp_path, "model.kind=head", "trainer.max_epochs=1")))
    assert "not in the module's optimizer, and so not trained: backbone.1.weight" in capsys.readouterr().out
    state = torch.load(next(Path(found["folder"]).glob("checkpoints/step-*.ckpt")), weights_only=True)["state_dict"]
    pl.seed_everything(0, verbose=False)
    start = Lit().state_dict()
    changed = {name for name in state if not torch.equal(state[name], start[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("more", "key", "said"),
    [
        (["model.kind=plateau"], "schedule", "feedback=plateau feedback.monitor=val/loss"),
        (["model.kind=not returned"], "schedule", "makes a scheduler and does not return it"),
        (["model.kind=several"], "optimizer", "makes 2 optimizers"),
        (["model.kind=foreign"], "optimizer", "1 parameters that are not the module's"),
        (["model.kind=still"], "optimizer", "its group backbone is 0"),
        (["model._target_=own_lit.OwnStep"], "schedule", "overrides lr_scheduler_step"),
        (["model._target_=own_lit.NoOptimizer"], "optimizer", "returns None"),
        (["model.kind=every third step", "trainer.accumulate_grad_batches=2"], "schedule", "at every 3 batches"),
        (["layers=no_decay"], "layers", "the groups are those of the module's own optimizer"),
        (["optimizer.weight_decay=0.1"], "optimizer.weight_decay", "takes no weight_decay"),
        (["optimizer=adamw", "schedule=module"], "schedule", "add optimizer=module"),
        (["task=find"], "optimizer", "no range test"),
        (["model=mlp"], "optimizer", "needs a LightningModule"),
    ],
)
def test_what_cannot_be_planned(more: list[str], key: str, said: str, tmp_path: Path) -> None:
    more = [*more, *([] if "task=find" in more else ["task=plan"])]
    given = [*more, "optimizer=module"] if "model=mlp" in more else words(tmp_path, *more)
    with pytest.raises(ConfigError) as raised:
        plan.run(compose(given))
    problem = next(problem for problem in raised.value.problems if problem.key == key)
    assert said in str(problem)

"""Guards in a run: whole windows, exact resumes, skipped steps, what is reported."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision

from lrflow.clip import AGC, AdaGC, Clip, Gradients, Norm, Skip, Value, ZClip
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.tasks import prepare
from lrflow.tasks import train as task
from lrflow.training import Supervised

GUARDS: dict[str, Callable[[], Clip]] = {
    "norm": lambda: Norm(0.3),
    "value": lambda: Value(0.01),
    "agc": lambda: AGC(0.02),
    "adagc": lambda: AdaGC(max_norm=0.5, warmup=4),
    "zclip": lambda: ZClip(threshold=0.5, warmup=4),
    "skip": lambda: Skip(sigma=0.5, window=4),
}


@pytest.mark.parametrize(
    ("name", "accumulate"), [("norm", 1), ("agc", 1), ("zclip", 1), ("value", 3), ("adagc", 3), ("skip", 3)]
)
def test_a_run_resumes_exactly(name: str, accumulate: int, train: Any, tmp_path: Path) -> None:
    options = {"guard": GUARDS[name], "accumulate": accumulate, "save_every": "5 steps", "val_size": 0}
    whole = train(tmp_path / "whole", **options)
    again = train(tmp_path / "again", resume=tmp_path / "whole/checkpoints/step-0000005.ckpt", **options)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in whole.weights.items())
    factors = whole.column("clip/factor")
    assert again.column("clip/factor") == factors[5:]
    assert min(factors) < 1
    records = [
        next(one.record for one in run.trainer.callbacks if hasattr(one, "record") and hasattr(one, "clip"))
        for run in (whole, again)
    ]
    expected = {
        "steps": len(factors),
        "clipped": sum(0 < factor < 1 for factor in factors),
        "skipped": factors.count(0),
    }
    assert records == [expected] * 2


def test_the_norm_is_clipped_as_lightning_does_it(train: Any, tmp_path: Path) -> None:
    theirs = train(tmp_path / "theirs", clip=0.1, accumulate=3)
    ours = train(tmp_path / "ours", guard=lambda: Norm(0.1), accumulate=3)
    assert all(torch.equal(ours.weights[name], tensor) for name, tensor in theirs.weights.items())
    assert ours.column("train/grad_norm") == theirs.column("train/grad_norm")


def test_the_norms_of_a_step_are_measured_once(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []
    measure = Gradients.measure
    monkeypatch.setattr(Gradients, "measure", lambda self, *order: measured.append(0) or measure(self, *order))
    run = train(tmp_path, guard=lambda: Norm(0.1), save_every=None)
    assert len(measured) == len(run.column("train/grad_norm"))
    assert min(run.column("train/grad_norm")) > 0


class EveryThird(Clip):
    """A guard of a user's own."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, gradients: Gradients) -> torch.Tensor:
        self.losses.append(float(gradients.loss))
        if len(self.losses) % 3:
            return torch.ones(())
        gradients.drop()
        return torch.zeros(())


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_skipped_step_changes_nothing_but_the_lr(optimizer: Any, train: Any, tmp_path: Path) -> None:
    """Neither weights nor the optimizer's state; the plan goes on."""
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {"weight_decay": 0.1}
    seen: list[tuple[dict[str, Any], list[torch.Tensor]]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            state = [
                value.clone()
                for own in trainer.optimizers[0].state_dict()["state"].values()
                for value in own.values()
                if isinstance(value, torch.Tensor)
            ]
            seen.append(({}, [*state, *(one.detach().clone() for one in pl_module.parameters())]))

    run = train(
        tmp_path, guard=EveryThird, optimizer=optimizer, settings=settings, callbacks=[Watch()], save_every=None
    )
    tensors = [each for _, each in seen]
    same = [all(torch.equal(one, other) for one, other in zip(*pair, strict=True)) for pair in pairwise(tensors)]
    assert same == [step % 3 == 2 for step in range(1, len(tensors))]
    assert run.column("clip/factor") == [float(step % 3 != 2) for step in range(len(tensors))]
    assert run.record.rates == [list(rates) for rates in run.plan.lr(np.arange(run.horizon.steps))]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_guard_reads_the_mean_loss_of_the_window(scaled: bool, prepare: Any, tmp_path: Path) -> None:
    made: list[EveryThird] = []

    def make() -> EveryThird:
        made.append(EveryThird())
        return made[-1]

    run = prepare(tmp_path, guard=make, accumulate=3, settings={})
    if scaled:
        run.trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu")
    run.fit()
    assert made[0].losses == pytest.approx(run.column("train/loss"), rel=1e-6)
    assert made[0].losses[0] < 2


OWN = f"{__name__}.EveryThird"
SMALL = [
    "model=logistic",
    "trainer.accelerator=cpu",
    "trainer.max_steps=12",
    "task.test=false",
    "trainer.progress=false",
]


class Norms(pl.Callback):
    """The gradient norm with which the optimizers made each step."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        gradients = [one.grad.detach() for one in pl_module.parameters() if one.grad is not None]
        self.used += [float(torch.stack(torch._foreach_norm(gradients)).norm())] if gradients else []


TOGETHER = {
    "alone": [],
    "two routes": ["optimizer=muon"],
    "a route at every second step": ["optimizer=muon", "+optimizer.routes.muon.every=2"],
    "float16": ["trainer.precision=16-mixed"],
    "bfloat16": ["trainer.precision=bf16-mixed"],
    "compiled": ["trainer.compile=true"],
}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[list[float], list[dict[str, str]]]]:
    """Train a small model by a config; return the norms that the optimizers saw, and the rows of the steps."""
    build = prepare.build_trainer

    def run(*overrides: str) -> tuple[list[float], list[dict[str, str]]]:
        norms = Norms()

        def build_and_add(*settings: Any, **further: Any) -> Any:
            trainer = build(*settings, **further)
            trainer.callbacks.append(norms)
            if "trainer.precision=16-mixed" in overrides:  # Lightning has no such precision on CPUs
                trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu")
            return trainer

        monkeypatch.setattr(prepare, "build_trainer", build_and_add)
        small = [one for one in SMALL if not one.startswith("model=")]
        few = ["model.widths=[8]", "trainer.limit_val_batches=1"]
        folder = task.run(compose([*small, *few, *overrides, f"output={tmp_path}"]))["folder"]
        rows = csv.DictReader((Path(folder) / "metrics.csv").read_text().splitlines())
        return norms.used, [row for row in rows if row["train/loss"]]

    return run


@pytest.mark.parametrize(
    "options",
    [pytest.param(value, id=name, marks=[pytest.mark.slow] * (name == "compiled")) for name, value in TOGETHER.items()],
)
def test_the_optimizers_get_what_is_clipped(options: list[str], planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the run does besides: the norm of all gradients together, unscaled, is limited once per step."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    used, rows = planned("clip=norm", "clip.max_norm=0.36", *options)
    norms = [float(row["train/grad_norm"]) for row in rows]
    assert norms[0] == pytest.approx(0.358, abs=0.002)  # as without anything else
    assert used == pytest.approx([min(norm, 0.36) for norm in norms], rel=1e-4)
    factors = [min(1, 0.36 / norm) for norm in norms]
    assert [float(row["clip/factor"]) for row in rows] == pytest.approx(factors, rel=1e-4)
    assert min(norms) < 0.36 < max(norms)


def test_the_curvature_is_that_of_gradients_that_are_not_clipped(planned: Any, same: Any, tmp_path: Path) -> None:
    """A guard scales the gradients; their second derivatives stay those of the loss."""
    states = []
    for limit in ("1e-3", "1e3"):
        planned("optimizer=adahessian", "clip=norm", f"clip.max_norm={limit}", "trainer.max_steps=1")
        newest = max(tmp_path.glob("*/checkpoints/step-*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        states.append(torch.load(newest, weights_only=True)["optimizer_states"][0]["state"])
    low, high = ([state["exp_avg"] for state in one.values()] for one in states)
    assert not same(low, high)
    low, high = ([state["exp_hessian_diag_sq"] for state in one.values()] for one in states)
    assert same(low, high)


def test_a_guard_of_ones_own_by_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("LRFLOW_TRUST", __name__.partition(".")[0])
    ended = task.run(compose([*SMALL, f"+clip._target_={OWN}", f"output={tmp_path}"]))
    assert "0 of 12 steps clipped, 4 skipped" in capsys.readouterr().out
    summary = json.loads((Path(ended["folder"]) / "summary.json").read_text())
    assert summary["clip"] == {"steps": 12, "clipped": 0, "skipped": 4}


class ClipsItself(Supervised):
    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **_: Any) -> None:
        self.given = gradient_clip_val


def test_a_module_that_clips_itself() -> None:
    from lrflow.training.guard import build_guard

    module = ClipsItself(torch.nn.Linear(2, 2), "cross_entropy")
    assert build_guard(compose(["clip=norm"]), module, []) is None
    with pytest.raises(ConfigError, match=r"ClipsItself\.configure_gradient_clipping clips gradients already"):
        build_guard(compose(["clip=zclip"]), module, [])

"""Guards in a run: whole windows, exact resumes, skipped steps, what is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lrflow.clip import AGC, AdaGC, Clip, Gradients, Norm, Skip, Value, ZClip
from lrflow.config import compose
from lrflow.errors import ConfigError
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


def test_a_guard_reads_the_mean_loss_of_the_window(train: Any, tmp_path: Path) -> None:
    made: list[EveryThird] = []

    def make() -> EveryThird:
        made.append(EveryThird())
        return made[-1]

    run = train(tmp_path, guard=make, accumulate=3)
    assert made[0].losses == pytest.approx(run.column("train/loss"), rel=1e-6)


OWN = f"{__name__}.EveryThird"
SMALL = [
    "model=logistic",
    "trainer.accelerator=cpu",
    "trainer.max_steps=12",
    "task.test=false",
    "trainer.progress=false",
]


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

"""The operations of a step against their formula; counting them changes nothing; what cannot be counted is left out."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrflow.columns import STEPS
from lrflow.config import compose
from lrflow.optimizers import Routed
from lrflow.tasks import train as task
from lrflow.training.flops import FLOPS, MFU, FlopMeter

SMALL = ["model.widths=[32]", "data.batch_size=32", "trainer=cpu", "trainer.progress=false", "task.test=false"]
SMALL += ["trainer.max_steps=6", "trainer.log_every=6", "trainer.limit_val_batches=1", "model.dropout=0.2"]


def run(folder: Path, *overrides: str) -> tuple[list[dict[str, str]], Any]:
    made = Path(task.run(compose([*SMALL, *overrides, f"output={folder}"]))["folder"])
    weights = torch.load(made / "checkpoints" / "step-0000006.ckpt", weights_only=True)["state_dict"]
    return [row for row in csv.DictReader((made / "metrics.csv").open()) if row["train/loss"]], weights


def test_a_step_is_counted_and_unchanged(tmp_path: Path, same: Any) -> None:
    rows, weights = run(tmp_path, "trainer.accumulate_grad_batches=2", "signals.peak_flops=1e9")
    plain, expected = run(tmp_path, "trainer.accumulate_grad_batches=2", "signals=none")
    assert same(weights, expected)
    assert [row["train/loss"] for row in rows] == [row["train/loss"] for row in plain]
    speed, flops, share = (float(rows[-1][column]) for column in (STEPS, FLOPS, MFU))
    products = 3 * (64 * 32 + 32 * 10) - 64 * 32  # forward, and gradients of weights and of inputs but the first
    assert flops == pytest.approx(2 * 64 * products * speed, rel=1e-4)
    assert share == pytest.approx(flops / 1e9, rel=1e-4)
    assert FLOPS not in plain[-1]


def test_unlike_steps_are_not_counted() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    net, compiled = torch.nn.Linear(2, 2), torch.compile(torch.nn.Linear(2, 2), backend="eager")
    sgd, newton = torch.optim.SGD([weight], 0.1), torch.optim.LBFGS([weight])
    for optimizer, module, automatic, counts in (
        (sgd, net, True, True),
        (Routed({None: sgd}), net, True, True),
        (newton, net, True, False),
        (sgd, net, False, False),
        (sgd, torch.nn.Sequential(compiled), True, False),
    ):
        meter = FlopMeter(1.0)
        loop = SimpleNamespace(epoch_loop=SimpleNamespace())
        trainer: Any = SimpleNamespace(optimizers=[optimizer], world_size=2, fit_loop=loop)
        pl_module: Any = SimpleNamespace(modules=module.modules, automatic_optimization=automatic)
        meter.on_train_start(trainer, pl_module)
        assert callable(meter.on_train_batch_start) == counts  # a hook that is None is not called
        if counts:
            meter.on_train_batch_start(trainer, pl_module, None, 0)
            torch.ones(3, 4) @ torch.ones(4, 5)
            meter.on_after_backward(trainer, pl_module)
            meter.on_before_optimizer_step(trainer, pl_module, optimizer)
        assert meter.per_step == (2 * 2 * 3 * 4 * 5 if counts else None)
        assert meter.use(trainer, 10.0) == ({FLOPS: 2400.0, MFU: 1200.0} if counts else {})

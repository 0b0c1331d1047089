"""Sharpness measured during a run: the values are right, and the run does not change."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lrflow.columns import SHARPNESS
from lrflow.errors import LrflowError
from lrflow.health import Sharpness
from lrflow.health.sharpness_record import read_sharpness
from lrflow.layers import Rule
from lrflow.training import Supervised
from lrflow.training.state import random_state

ALL = [Rule("all", match="*")]


@pytest.fixture
def probed(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a run whose sharpness is measured every `every` steps."""

    def make(folder: Path, every: int = 4, **settings: Any) -> Any:
        run = prepare(folder, **settings)
        run.watch("sharpness", Sharpness(every, batches=2, products=20))
        return run

    return make


def state_of(run: Any) -> list[Any]:
    """Return the final state of a run: weights, moments, generators."""
    values = run.trainer.optimizers[0].state_dict()["state"].values()
    moments = [value for state in values for value in state.values()]
    generators = random_state()
    return [*run.weights.values(), *moments, generators["torch"], generators["numpy"][1]]


def without_sharpness(run: Any) -> list[dict[str, str]]:
    rows = [{key: value for key, value in row.items() if key not in SHARPNESS} for row in run.rows()]
    return [row for row in rows if sum(map(bool, row.values())) > 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": torch.optim.SGD, "settings": {"momentum": 0.9}},
        {"accumulate": 3},
        {"workers": 1, "batch_size": 32},
    ],
    ids=["momentum", "AdamW, accumulated", "AdamW, a worker"],
)
def test_measuring_does_not_change_the_run(settings: dict, train: Any, probed: Any, tmp_path: Path) -> None:
    """With batch norm, dropout, and noise from each of the three generators."""
    alone, other = train(tmp_path / "alone", **settings), probed(tmp_path / "probed", **settings).fit()
    steps = other.horizon.steps
    first = 0 if settings.get("optimizer") is torch.optim.SGD else 4
    assert len(other.column("sharpness/top")) == len(range(first, steps, 4))
    for one, two in zip(state_of(alone), state_of(other), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(two))
    assert alone.record.batches == other.record.batches
    assert alone.rows() == without_sharpness(other)


def test_a_resumed_run_measures_the_same(probed: Any, prepare: Any, tmp_path: Path) -> None:
    class Cut(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 17:
                raise KeyboardInterrupt

    whole = probed(tmp_path / "whole", every=7).fit()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        probed(tmp_path / "cut", every=7, callbacks=[Cut()]).fit()
    assert (tmp_path / "cut/sharpness.png").exists()
    resumed = probed(tmp_path / "cut", every=7, resume=tmp_path / "cut/checkpoints/step-0000014.ckpt").fit()
    assert resumed.rows() == whole.rows()
    assert [row["step"] for row in whole.rows() if row["sharpness/top"]] == ["7", "14"]


class Kept(pl.Callback):
    """Records weights and second moments before a step, and the first two batches."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.batches: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if len(self.batches) < 2:
            self.batches.append(batch)
        if trainer.global_step == self.step:
            optimizer = trainer.optimizers[0]
            self.weights = {name: p.detach().clone() for name, p in pl_module.model.named_parameters()}
            self.lr = optimizer.param_groups[0]["lr"]
            self.square = [optimizer.state[p]["exp_avg_sq"].clone() for p in pl_module.model.parameters()]


def test_it_equals_the_top_eigenvalue_of_the_preconditioned_hessian(probed: Any, tmp_path: Path) -> None:
    """For Adam after 6 steps, compared with a dense eigensolver and explicit formulas."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    kept, module = Kept(6), Supervised(network, "cross_entropy")
    settings = {"optimizer": torch.optim.Adam, "settings": {"weight_decay": 0.01}, "rules": ALL}
    run = probed(tmp_path, every=6, module=module, callbacks=[kept], max_steps=7, **settings).fit()
    assert isinstance(network[2], nn.Dropout)
    network[2].p = 0.0
    names = list(kept.weights)
    sizes = [kept.weights[name].numel() for name in names]

    def loss(flat: Tensor) -> Tensor:
        parts = {name: part.view_as(kept.weights[name]) for name, part in zip(names, flat.split(sizes), strict=True)}
        found = [nn.functional.cross_entropy(functional_call(network, parts, (x,)), y) for x, y in kept.batches]
        return (found[0] + found[1]) / 2

    flat = torch.cat([kept.weights[name].reshape(-1) for name in names])
    hessian = torch.autograd.functional.hessian(loss, flat) + 0.01 * torch.eye(len(flat))
    square = torch.cat([one.reshape(-1) for one in kept.square])
    divisor = (1 - 0.9**6) * ((square / (1 - 0.999**6)).sqrt() + 1e-8)
    root = divisor.rsqrt()
    top = float(torch.linalg.eigvalsh(root[:, None] * hessian * root)[-1])
    assert run.column("sharpness/top") == [pytest.approx(top, rel=1e-3)]
    assert run.column("sharpness/share") == [pytest.approx(kept.lr * top / 38, rel=1e-3)]


@pytest.mark.usefixtures("rendered")
def test_it_can_be_read_from_the_run_folder(probed: Any, tmp_path: Path) -> None:
    settings = {"optimizer": torch.optim.SGD, "settings": {"momentum": 0.9}, "rules": ALL}
    run = probed(tmp_path, **settings).fit()
    record = read_sharpness(tmp_path)
    assert record is not None
    assert record.steps.tolist() == [0, 4, 8, 12, 16, 20]
    lr = run.plan.lr(np.arange(21))[:, 0]
    np.testing.assert_allclose(record.bound, 3.8 / lr)
    np.testing.assert_allclose(record.share, record.top * lr[::4] / 3.8)
    assert (tmp_path / "sharpness.png").stat().st_size > 10_000


def test_a_nonfinite_curvature_does_not_end_the_run(probed: Any, tmp_path: Path) -> None:
    settings = {"optimizer": torch.optim.SGD, "settings": {}, "rules": ALL, "max_epochs": 1, "monitor": None}
    run = probed(tmp_path, nan=True, **settings).fit()
    assert all(math.isnan(top) for top in run.column("sharpness/top"))
    assert read_sharpness(tmp_path) is None


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


class OnlyOnce(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return Once.apply(super().forward(inputs))


class Hidden(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(super().forward, inputs.requires_grad_(), use_reentrant=True)


@pytest.mark.parametrize(("network", "why"), [(OnlyOnce, "only once"), (Hidden, "use_reentrant=True")])
def test_a_loss_without_second_derivatives_raises_before_the_first_step(
    network: type[nn.Linear], why: str, probed: Any, tmp_path: Path
) -> None:
    run = probed(tmp_path, module=Supervised(network(6, 3), "cross_entropy"), rules=ALL)
    with pytest.raises(LrflowError, match=rf"{why}[^$]*leave out sharpness\.every"):
        run.fit()
    assert run.trainer.global_step == 0

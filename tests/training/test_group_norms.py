"""Norms of each group, compared with a copy of the weights and gradients around each step."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lrflow.columns import COSINE
from lrflow.training import group_norms
from lrflow.training.group_norms import GroupNorms, NormMeter, RunMeter

KINDS = ("grad_norm", "weight_norm", "update_norm", "update_ratio")


class Copies(pl.Callback):
    """Copies the weights before each step and after it, and the gradients."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        parameters = dict(module.model.named_parameters())
        self.weights.append({name: value.detach().clone() for name, value in parameters.items()})
        self.gradients.append({name: value.grad.clone() for name, value in parameters.items()})

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if trainer.global_step > len(self.after):
            self.after.append({name: value.detach().clone() for name, value in module.model.named_parameters()})


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


@pytest.mark.parametrize(("every", "accumulate"), [(1, 1), (4, 1), (3, 3), (None, 1)])
def test_the_norms_are_those_of_copies(every: int | None, accumulate: int, train: Any, tmp_path: Path) -> None:
    copies = Copies()
    run = train(tmp_path, callbacks=[copies], norms_every=every, accumulate=accumulate, clip=0.5)
    rows = [row for row in run.rows(timeless=False) if row["train/loss"]]
    if every is None:
        assert not any(name.startswith((*KINDS, COSINE)) for name in rows[0])
        return
    before: Tensor | None = None
    members = {group.name: [name for name, _ in group.parameters] for group in run.groups if not group.frozen}
    for step, row in enumerate(rows):
        moves = {name: copies.after[step][name] - value for name, value in copies.weights[step].items()}
        update = torch.cat([moves[name].flatten() for names in members.values() for name in names])
        if step % every > 1:
            assert not any(row[f"{kind}/{group}"] for kind in KINDS for group in members)
            before = update
            continue
        for group, names in members.items():
            weight = norm([copies.weights[step][name] for name in names])
            moved = norm([moves[name] for name in names])
            expected = [norm([copies.gradients[step][name] for name in names]), weight, moved, moved / weight]
            assert [float(row[f"{kind}/{group}"]) for kind in KINDS] == pytest.approx(expected, rel=1e-5, abs=1e-9)
        if step and (every == 1 or step % every == 1):
            assert before is not None
            assert float(row[COSINE]) == pytest.approx(float(torch.cosine_similarity(before, update, 0)), abs=1e-5)
        else:
            assert row[COSINE] == ""
        before = update


def read(weights: Tensor, meter: NormMeter) -> Tensor:
    """Every n-th element of each member's tensor."""
    return weights.flatten(1)[:, :: meter.strides[0]].clone()


def test_a_large_tensor_is_sampled_and_members_are_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    before = torch.randn(2, 300, 301)
    after = before + torch.tensor([0.01, 0.1])[:, None, None] * torch.randn(2, 300, 301)
    found = []
    for sample, members in ((2**10, [0, 1]), (2**30, [0, 1]), (2**30, [1])):
        monkeypatch.setattr(group_norms, "SAMPLE", sample)
        meter = NormMeter(1, [300 * 301], [0], 1, 1, torch.device("cpu"), len(members))
        meter.begin(0, read(before[members], meter))
        meter.add_gradients(torch.tensor([[4.0]] * len(members)))
        meter.finish(0, read(after[members], meter))
        found.append(meter.take())
    for member in (0, 1):
        sampled, exact = found[0][member], found[1][member]
        assert exact.weight[0, 0] == pytest.approx(float(before[member].norm()), rel=1e-5)
        assert exact.update[0, 0] == pytest.approx(float((after - before)[member].norm()), rel=1e-5)
        assert sampled.weight[0, 0] == pytest.approx(exact.weight[0, 0], rel=0.1)
        assert sampled.update[0, 0] == pytest.approx(exact.update[0, 0], rel=0.1)
        assert sampled.gradient[0, 0] == exact.gradient[0, 0] == 2
    assert found[2][0].update[0, 0] == pytest.approx(found[1][1].update[0, 0], rel=1e-6)


def test_a_sample_reads_all_columns_and_weighs_its_tensors_by_their_sizes() -> None:
    torch.manual_seed(0)
    sizes = [2**20, 50]
    meter = NormMeter(1, sizes, [0, 1], 2, 2, torch.device("cpu"))
    large, small = torch.zeros(1024, 1024), torch.randn(50)
    large[:, ::64] = torch.randn(1024, 16)  # the columns that every 64th element would be in
    weights = [torch.zeros(2**20), torch.zeros(50)]

    def sampled() -> Tensor:
        parts = zip(weights, meter.strides, strict=True)
        return torch.cat([weight[::stride] for weight, stride in parts])[None]

    for step, moves in enumerate(([large, 5 * small], [large, -5 * small])):
        meter.begin(step, sampled())
        weights = [weight + move.flatten() for weight, move in zip(weights, moves, strict=True)]
        meter.finish(step, sampled())
    (found,) = meter.take()
    assert found.update[0].tolist() == pytest.approx([float(large.norm()), 5 * float(small.norm())], rel=0.1)
    squares = float(large.square().sum()), 25 * float(small.square().sum())
    assert found.cosine[1] == pytest.approx((squares[0] - squares[1]) / sum(squares), abs=0.05)


def test_squares_of_half_precision_norms_do_not_overflow() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    plan = SimpleNamespace(names=["all"], trainable=[SimpleNamespace(name="all", tensors=1)])
    meter = RunMeter(1, [{"members": ["all"], "params": [parameter]}], plan, 1)  # type: ignore[arg-type]
    meter.read_gradients(0, [parameter], torch.tensor([1000.0], dtype=torch.float16), True)
    meter.read_update(0, 0)
    assert meter.take()[0].gradient[0, 0] == 1000


def test_the_ratio_to_weights_of_zero_is_left_out() -> None:
    meter = NormMeter(1, [3], [0], 1, 1, torch.device("cpu"))
    meter.begin(0, torch.zeros(1, 3))
    meter.finish(0, torch.ones(1, 3))
    assert math.isnan(meter.take()[0].columns(["bias"])["update_ratio/bias"][0])


@pytest.mark.filterwarnings("error")
def test_a_run_that_diverges_has_no_ratio() -> None:
    row, inf = np.zeros(1, dtype=int), np.full((1, 1), np.inf)
    assert np.isnan(GroupNorms(row, inf, inf, inf, inf[0]).ratio).all()

"""Norms of each group, compared with a copy of the weights and gradients around each step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lrflow.training import group_norms
from lrflow.training.group_norms import COSINE, NormMeter

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


def test_the_ratio_to_weights_of_zero_is_left_out() -> None:
    meter = NormMeter(1, [3], [0], 1, 1, torch.device("cpu"))
    meter.begin(0, torch.zeros(1, 3))
    meter.finish(0, torch.ones(1, 3))
    assert math.isnan(meter.take()[0].columns(["bias"])["update_ratio/bias"][0])

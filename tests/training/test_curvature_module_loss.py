"""A training step as a pure function: repeatable, without side effects."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lrflow.training.curvature import as_pure_function, hessian_product, module_loss


class Noisy(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.frozen = nn.BatchNorm1d(2).eval()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(self.frozen(self.layers(batch[0])), batch[1])
        self.log("train/mine", loss)
        return {"loss": loss}


def test_it_is_a_pure_function() -> None:
    torch.manual_seed(0)
    module = Noisy()
    batches = [(torch.randn(16, 4), torch.randint(2, (16,))) for _ in range(2)]
    before = copy.deepcopy(module.state_dict())
    modes = [one.training for one in module.modules()]
    random = torch.get_rng_state()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    with as_pure_function(module):
        loss = module_loss(module, batches)
        first, again = loss(parameters), loss(parameters)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), random)
    assert [one.training for one in module.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert "log" not in vars(module)


def test_it_uses_batch_statistics_and_no_dropout() -> None:
    torch.manual_seed(0)
    module = Noisy()
    batch = (torch.randn(16, 4), torch.randint(2, (16,)))
    linear, norm, _, last = module.layers
    hidden = linear(batch[0])
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    output = last(hidden) / (1 + module.frozen.eps) ** 0.5  # its running mean is 0, its variance 1
    expected = nn.functional.cross_entropy(output, batch[1])
    with as_pure_function(module):
        found = module_loss(module, [batch])(dict(module.named_parameters()))
    torch.testing.assert_close(found, expected)


class Attends(pl.LightningModule):
    """A module whose training step takes no index, and skips empty batches."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def training_step(self, batch: Tensor) -> Tensor | None:
        return self.attention(batch, batch, batch, need_weights=False)[0].square().mean() if len(batch) else None


def test_attention_has_second_derivatives() -> None:
    torch.manual_seed(0)
    module, batch = Attends(), torch.randn(3, 5, 4)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    vector = torch.cat([torch.randn_like(p).reshape(-1) for p in parameters.values()])

    def gradient(shift: float) -> Tensor:
        moved, start = {}, 0
        for name, p in parameters.items():
            moved[name] = (p + shift * vector[start : start + p.numel()].view_as(p)).requires_grad_()
            start += p.numel()
        found = torch.autograd.grad(module_loss(module, [batch])(moved), list(moved.values()))
        return torch.cat([one.reshape(-1) for one in found])

    with as_pure_function(module):
        product = hessian_product(module_loss(module, [batch, batch[:0]]), parameters)(vector)
    torch.testing.assert_close(product, (gradient(1e-3) - gradient(-1e-3)) / 2e-3, rtol=0.02, atol=1e-3)


def test_skipping_every_batch_raises() -> None:
    module = Attends()
    with pytest.raises(ValueError, match="skips every batch"):
        module_loss(module, [torch.zeros(0, 5, 4)])(dict(module.named_parameters()))

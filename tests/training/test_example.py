"""Running an example through a copy of a module: its results, no side effects, and its errors."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrflow.training.example import NoExampleError, example_batch, trace_uses
from lrflow.training.module import Supervised


class Data(pl.LightningDataModule):
    def __init__(self, loaders: Any) -> None:
        super().__init__()
        self.loaders = loaders

    def train_dataloader(self) -> Any:
        return self.loaders


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        raise AssertionError("an example was taken from a stream")


def loader(**options: Any) -> DataLoader:
    return DataLoader(
        TensorDataset(torch.randn(9, 4), torch.randn(9, 1)), **{"batch_size": 4, "shuffle": True} | options
    )


class Restless(pl.LightningModule):
    """Changes everything that a step can: statistics, buffers, counters, lists; draws from every generator; logs."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.norm, self.lower = nn.Linear(4, 1), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.steps, self.seen = 0, list[float]()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] + torch.randn(4) * random.random() * np.random.rand()
        self.mean = self.mean * 0.9 + x.mean(0) * 0.1
        self.mean.add_(1)
        self.steps += 1
        self.seen.append(float(x.sum()))
        loss = self.upper(self.norm(self.lower(x))).mean()
        self.log("train/loss", loss)
        return loss


def test_it_has_no_side_effects(same: Callable[[Any, Any], bool]) -> None:
    module, data = Restless(), Data(loader())
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    buffers, training = dict(module.named_buffers()), module.training
    generators = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    uses = trace_uses(module, data)
    assert uses.first(module.lower.parameters()) < uses.first(module.upper.parameters())  # type: ignore[operator]
    assert same(dict(module.state_dict()), before)
    assert all(buffers[name] is buffer for name, buffer in module.named_buffers())
    assert (module.steps, module.seen, module.training) == (0, [], training)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert not module.lower._forward_pre_hooks
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1:] == (random.getstate(), str(np.random.get_state()))


@pytest.mark.parametrize(
    ("loaders", "shapes"),
    [
        (loader(), [(2, 4), (2, 1)]),
        (loader(batch_size=None), [(4,), (1,)]),
        ({"a": loader(), "b": [loader()]}, [(2, 4), (2, 1), (2, 4), (2, 1)]),
    ],
    ids=["one", "without batches", "a nest"],
)
def test_an_example_has_the_structure_of_the_loaders(loaders: Any, shapes: list[tuple[int, ...]]) -> None:
    batch = example_batch(Data(loaders))
    assert [tuple(leaf.shape) for leaf in torch.utils._pytree.tree_leaves(batch)] == shapes


class Failing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such thing\nmore")


class Apart(nn.Module):
    """Two halves with a conversion to NumPy in between."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(torch.tensor(self.lower(x).tolist()))


@pytest.mark.parametrize(
    ("network", "data", "why"),
    [
        (nn.Linear(4, 1), None, "the data were not read"),
        (nn.Linear(4, 1), Data(DataLoader(Stream())), r"the data are a stream \(Stream\)"),
        (nn.Linear(4, 1), Data([1, 2]), r"the data are a stream \(list\)"),
        (
            Failing(4, 1),
            Data(loader()),
            "the model fails on an example before the training: ValueError: no such thing$",
        ),
        (Apart(), Data(loader()), "no operation of torch leads from one of its parameters to another"),
    ],
    ids=["no data", "stream", "no loader", "fails", "apart"],
)
def test_errors_give_the_reason(network: nn.Module, data: Any, why: str) -> None:
    with pytest.raises(NoExampleError, match=why):
        trace_uses(Supervised(network, "mse"), data)


def test_example_input_array_replaces_data() -> None:
    class Own(Restless):
        example_input_array = torch.zeros(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.upper(self.norm(self.lower(x)))

    module = Own()
    uses = trace_uses(module, Data(DataLoader(Stream())))
    assert uses.feed(module.lower.parameters(), module.upper.parameters())

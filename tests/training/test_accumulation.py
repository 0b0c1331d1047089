"""The gradient of an accumulation window is the mean over its batches, compared with a plain torch loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrflow.layers import Rule
from lrflow.schedules import Constant, Schedule
from lrflow.training.look_ahead import LookAhead

LR, EPOCHS = 0.1, 2
INPUTS = torch.randn(104, 6, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sum(1).relu()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_of(net: nn.Module, batch: Any) -> torch.Tensor:
    return functional.mse_loss(net(batch[0])[:, 0], batch[1])


class Module(pl.LightningModule):
    def __init__(self, skipped: set[int]) -> None:
        super().__init__()
        self.net, self.skipped = network(), skipped

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
        return None if batch_idx in self.skipped else loss_of(self.net, batch)


class Stream(IterableDataset[Any]):
    """The same examples, as a stream of unknown length."""

    def __iter__(self) -> Any:
        return iter(zip(INPUTS, TARGETS, strict=True))


class Data(pl.LightningDataModule):
    def __init__(self, stream: bool) -> None:
        super().__init__()
        self.stream = stream

    def train_dataloader(self) -> Any:
        return DataLoader(Stream() if self.stream else TensorDataset(INPUTS, TARGETS), 16)


def plain(accumulate: int, skipped: set[int], momentum: float) -> dict[str, torch.Tensor]:
    """Seven batches per epoch; one step per window, on the mean of its losses."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), LR, momentum=momentum)
    for _ in range(EPOCHS):
        batches = list(enumerate(DataLoader(TensorDataset(INPUTS, TARGETS), 16)))
        for start in range(0, len(batches), accumulate):
            window = [batch for index, batch in batches[start : start + accumulate] if index not in skipped]
            optimizer.zero_grad()
            if window:
                torch.stack([loss_of(net, batch) for batch in window]).mean().backward()
            optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 5])
@pytest.mark.parametrize("skipped", [set(), {1, 3}])
def test_the_gradient_of_a_short_window_is_a_mean(
    accumulate: int, skipped: set[int], stream: bool, train: Any, tmp_path: Path
) -> None:
    steps = EPOCHS * -(-7 // accumulate)
    run = train(
        tmp_path, module=Module(skipped), data=Data(stream), max_epochs=EPOCHS, max_steps=steps, accumulate=accumulate,
        lr=LR, optimizer=torch.optim.SGD, settings={"momentum": 0.9}, schedule=Schedule(Constant()),
        rules=[Rule("all", match="*")], monitor=None,
    )  # fmt: skip
    assert run.trainer.global_step == steps
    for name, weight in plain(accumulate, skipped, 0.9).items():
        torch.testing.assert_close(run.module.net.state_dict()[name], weight)


class Scaled(MixedPrecision):
    """Scales gradients as in half precision, but computes in single precision."""

    def autocast_context_manager(self) -> torch.autocast:
        return torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_scaler_makes_the_step_of_a_window_without_its_last_batch(
    accumulate: int, prepare: Any, tmp_path: Path
) -> None:
    run = prepare(
        tmp_path, module=Module({1, 3}), data=Data(False), max_epochs=EPOCHS, accumulate=accumulate, lr=LR,
        optimizer=torch.optim.SGD, settings={"momentum": 0.9}, schedule=Schedule(Constant()),
        rules=[Rule("all", match="*")], monitor=None,
    )  # fmt: skip
    run.trainer.strategy.precision_plugin = Scaled("16-mixed", "cpu")
    run.fit()
    for name, weight in plain(accumulate, {1, 3}, 0.9).items():
        torch.testing.assert_close(run.module.net.state_dict()[name], weight)


def test_loaders_without_a_reliable_length_end_at_their_limit() -> None:
    for limit, batches in ((2, 2), (9, 7), (None, 7)):
        loaders = LookAhead(DataLoader(TensorDataset(INPUTS), 16), "max_size_cycle", limit)
        assert [sum(1 for _ in loaders) for _ in range(2)] == [batches, batches]

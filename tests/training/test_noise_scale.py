"""The gradient noise scale, against problems whose gradients have a known mean and covariance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lrflow.columns import NOISE_SCALE
from lrflow.layers import Rule
from lrflow.training.noise_meter import count_examples
from lrflow.training.noise_scale import estimate_noise

SIZE, MEAN, SPREAD = 8, 0.2, 0.5
SQUARED, TRACE = SIZE * MEAN**2, SIZE * SPREAD**2  # |G|^2 and tr(S) of `Linear` on `Gaussian`


def test_the_estimates_are_unbiased() -> None:
    """The variance of a mean of n gradients is tr(S) / n: Monte Carlo, for parts of one to eight examples."""
    draw = np.random.default_rng(0)
    for examples, parts in ((1, 2), (2, 3), (8, 4)):
        parted = draw.normal(MEAN, SPREAD, (20_000, parts, examples, SIZE)).mean(axis=2)
        small = np.square(parted).sum(axis=2).mean(axis=1)
        large = np.square(parted.mean(axis=1)).sum(axis=1)
        for found, expected in zip(estimate_noise(small, large, parts, examples), (TRACE, SQUARED), strict=True):
            assert found.mean() == pytest.approx(expected, abs=4 * found.std() / math.sqrt(len(found)))


class Gaussian(pl.LightningDataModule):
    """Examples whose gradients under `Linear` are drawn from a normal distribution."""

    def __init__(self, examples: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = TensorDataset(MEAN + SPREAD * torch.randn(examples, SIZE, generator=draw))

    def train_dataloader(self) -> Any:
        return DataLoader(self.table, 16, shuffle=True)


class Linear(pl.LightningModule):
    """The gradient of each example is the example itself, at any weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(SIZE))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return (batch[0] @ self.weight).mean()


@pytest.mark.parametrize("how", [{"accumulate": 4, "norms_every": 1}, {"halves_every": 1, "norms_every": None}])
def test_a_run_measures_the_noise_of_its_gradients(how: dict[str, Any], train: Any, tmp_path: Path) -> None:
    rules = [Rule("all", match="*")]
    run = train(tmp_path, module=Linear(), data=Gaussian(16 * 203), max_epochs=1, rules=rules, save_every=None, **how)
    noise = [block.noise for block in run.blocks]
    for name, expected in (("trace", TRACE), ("squared", SQUARED)):
        found = np.concatenate([getattr(one, name) for one in noise])
        assert len(found) == run.horizon.steps == (51 if "accumulate" in how else 203)  # the last window has three
        assert found.mean() == pytest.approx(expected, abs=4 * found.std() / math.sqrt(len(found)))
    last = float(np.median(np.concatenate([one.scale for one in noise])[-50:]))
    assert last == pytest.approx(TRACE / SQUARED, rel=0.3)
    assert run.column(NOISE_SCALE)[-1] == np.concatenate([one.scale for one in noise])[-1]


@pytest.mark.parametrize("how", [{"accumulate": 3}, {"halves_every": 2}])
def test_measuring_changes_nothing_and_is_resumed_exactly(how: dict[str, Any], train: Any, tmp_path: Path) -> None:
    """The model has dropout, batch norm, and noise from three generators."""
    whole = train(tmp_path / "whole", **how)
    nothing = train(tmp_path / "nothing", **how | {"halves_every": None}, norms_every=None, machine=False)
    assert all(torch.equal(whole.weights[name], value) for name, value in nothing.weights.items())
    assert not any(name.startswith((NOISE_SCALE, "memory/", "train/data")) for name in nothing.rows(timeless=False)[0])
    assert whole.column("train/loss") == nothing.column("train/loss")
    broken = train(tmp_path / "broken", interrupt=16, **how)
    resumed = train(tmp_path / "broken", resume=broken.newest, **how)
    assert resumed.rows() == whole.rows()
    assert whole.column(NOISE_SCALE)


def test_the_parts_are_those_of_the_window(train: Any, tmp_path: Path) -> None:
    """Each step's estimates against the gradients of its batches, with a window that is short at the end."""
    gradients: list[Tensor] = []

    class Copies(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            with torch.enable_grad():
                loss = functional.mse_loss(module.weight.expand_as(batch[0]), batch[0])
                gradients.append(torch.autograd.grad(loss, module.weight)[0])

    class Quadratic(Linear):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return functional.mse_loss(self.weight.expand_as(batch[0]), batch[0])

    how = {"accumulate": 3, "norms_every": 1, "max_epochs": 1, "rules": [Rule("all", match="*")], "save_every": None}
    run = train(tmp_path, module=Quadratic(), data=Gaussian(16 * 5), callbacks=[Copies()], **how)
    (noise,) = [block.noise for block in run.blocks]
    assert noise.rows.tolist() == [0, 1]
    for index, window in enumerate((gradients[:3], gradients[3:])):
        parted = torch.stack(window).double()
        small, large = parted.square().sum(1).mean(), parted.mean(0).square().sum()
        expected = estimate_noise(float(small), float(large), len(window), 16)
        assert (noise.trace[index], noise.squared[index]) == pytest.approx(expected, rel=1e-4)


def test_the_examples_of_a_batch_are_those_of_its_first_tensor() -> None:
    assert count_examples([{"a": [], "b": (torch.zeros(7, 2), torch.zeros(3))}]) == 7
    assert count_examples([torch.tensor(1.0), "text"]) is None

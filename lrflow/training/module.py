"""The Lightning module around a plain network."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric, R2Score

from lrflow.metric import SUPERVISED

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "mse": lambda output, target: functional.mse_loss(output, target.reshape_as(output)),
}


class Supervised(pl.LightningModule):
    """Trains any network on (input, target) batches, by classification or regression.

    Logs `val/loss` with `val/accuracy` (classification) or `val/mae` and `val/r2` (regression), and the same
    under `test/`. The training loss is returned, not logged: `Signals` collects it without a synchronisation.

    Args:
        model: maps a batch of inputs to logits of shape [batch, outputs], or to predictions.
        loss: `cross_entropy` (integer targets of shape [batch]) or `mse` (targets shaped as the predictions).
    """

    def __init__(self, model: nn.Module, loss: str) -> None:
        super().__init__()
        self.model = model
        self.loss = _LOSSES[loss]
        self._scores = nn.ModuleDict({stage: _metrics(loss) for stage in ("val", "test")})

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this plain string some forty times a step; torch's own __setattr__ looks for
        # parameters, buffers and submodules each time, a tenth of the cost of a small step.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's output for a batch."""
        return self.model(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        inputs, target = batch
        return self.loss(self.model(inputs), target)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch into the validation metrics; several loaders are one set."""
        self._count("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch into the test metrics; several loaders are one set."""
        self._count("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over the whole set, reduced over devices."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics over the whole set, reduced over devices."""
        self._report("test")

    def count(self, stage: str, output: Tensor, target: Tensor) -> None:
        """Count what the network made of a batch into the metrics of `val` or `test`."""
        for name, metric in self._metrics(stage):
            if name == "loss":
                metric.update(self.loss(output, target), weight=len(target))
            elif name == "accuracy":
                metric.update((output.argmax(1) == target).float())
            else:
                rows = len(output)
                metric.update(output.reshape(rows, -1), target.reshape(rows, -1))

    def scores(self, stage: str) -> dict[str, Tensor]:
        """The metrics of `val` or `test` over what was counted, by their full names; the count begins anew."""
        found = {}
        for name, metric in self._metrics(stage):
            try:
                value = metric.compute()
            except ValueError:  # R2 of a single example is not defined
                value = torch.tensor(torch.nan, device=self.device)
            found[f"{stage}/{name}"] = value
            metric.reset()
        return found

    def _count(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        inputs, target = batch
        self.count(stage, self.model(inputs), target)

    def _report(self, stage: str) -> None:
        for name, value in self.scores(stage).items():
            self.log(name, value, sync_dist=True)

    def _metrics(self, stage: str) -> list[tuple[str, Metric]]:
        scores = self._scores[stage]
        assert isinstance(scores, nn.ModuleDict)
        return [(name, metric) for name, metric in scores.items() if isinstance(metric, Metric)]


def _metrics(loss: str) -> nn.ModuleDict:
    # By default a batch whose loss is no number would be left out of the mean.
    makers: dict[str, Callable[[], Metric]] = {
        "loss": partial(MeanMetric, nan_strategy=math.nan),
        "accuracy": MeanMetric,
        "mae": MeanAbsoluteError,
        "r2": R2Score,
    }
    return nn.ModuleDict({name: makers[name]() for name in SUPERVISED[loss]})


def planned_module(module: pl.LightningModule) -> nn.Module:
    """The network whose parameters the plan names: the user's own, without lrflow's wrapper around it."""
    return module.model if isinstance(module, Supervised) else module

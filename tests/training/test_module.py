"""Losses and metrics of `Supervised`, compared with independent implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn import metrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrflow.training import Supervised, planned_module

DRAW = torch.Generator().manual_seed(3)
INPUTS = torch.randn(43, 4, generator=DRAW)  # 6 batches of 8, the last of 3


def loader(targets: torch.Tensor, inputs: torch.Tensor = INPUTS) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, targets), batch_size=8)


def trainer(folder: Path) -> pl.Trainer:
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **options)


def validated(module: pl.LightningModule, data: DataLoader[Any], folder: Path) -> dict[str, float]:
    (found,) = trainer(folder).validate(module, data, verbose=False)
    return dict(found)


class TestClassification:
    targets = torch.randint(0, 5, (43,), generator=DRAW)

    def test_metrics_over_the_whole_set(self, tmp_path: Path) -> None:
        net = nn.Linear(4, 5)
        found = validated(Supervised(net, "cross_entropy"), loader(self.targets), tmp_path)
        logits = net(INPUTS).detach().double().numpy()
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert found.keys() == {"val/loss", "val/accuracy"}
        assert found["val/loss"] == pytest.approx(metrics.log_loss(self.targets, probabilities, labels=range(5)))
        assert found["val/accuracy"] == pytest.approx(metrics.accuracy_score(self.targets, logits.argmax(1)))

    def test_the_test_set(self, tmp_path: Path) -> None:
        module = Supervised(nn.Linear(4, 5), "cross_entropy")
        expected = validated(module, loader(self.targets), tmp_path)
        (found,) = trainer(tmp_path).test(module, loader(self.targets), verbose=False)
        assert found == {name.replace("val", "test"): value for name, value in expected.items()}

    def test_pixels_are_classified(self, tmp_path: Path) -> None:
        inputs = torch.randn(10, 2, 3, 3, generator=DRAW)
        targets = torch.randint(0, 4, (10, 3, 3), generator=DRAW)
        net = nn.Conv2d(2, 4, 1)
        found = validated(Supervised(net, "cross_entropy"), loader(targets, inputs), tmp_path)
        logits = net(inputs).detach()
        assert found["val/accuracy"] == pytest.approx((logits.argmax(1) == targets).double().mean().item())
        assert found["val/loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)


class TestRegression:
    @pytest.mark.parametrize("shape", [(43,), (43, 1), (43, 3), (43, 2, 3)])
    def test_metrics_over_the_whole_set(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        targets = torch.randn(shape, generator=DRAW)
        outputs = int(np.prod(shape[1:]))
        net = nn.Sequential(nn.Linear(4, outputs), nn.Unflatten(1, shape[1:] or (1,)))
        found = validated(Supervised(net, "mse"), loader(targets), tmp_path)
        expected, predicted = targets.reshape(43, -1).numpy(), net(INPUTS).detach().reshape(43, -1).numpy()
        assert found == pytest.approx(
            {
                "val/loss": metrics.mean_squared_error(expected, predicted),
                "val/mae": metrics.mean_absolute_error(expected, predicted),
                "val/r2": metrics.r2_score(expected, predicted),
            },
            rel=1e-4,
        )

    def test_predictions_without_a_second_dimension(self, tmp_path: Path) -> None:
        targets = torch.randn(43, generator=DRAW)
        net = nn.Linear(4, 1)
        flat = validated(Supervised(nn.Sequential(net, nn.Flatten(0)), "mse"), loader(targets), tmp_path)
        assert flat == validated(Supervised(net, "mse"), loader(targets), tmp_path)

    def test_a_single_example_to_validate_on(self, tmp_path: Path) -> None:
        found = validated(Supervised(nn.Linear(4, 1), "mse"), loader(torch.randn(1, 1), INPUTS[:1]), tmp_path)
        assert np.isfinite(found["val/loss"])

    def test_mismatched_targets_are_not_broadcast(self) -> None:
        """In torch [batch] and [batch, 1] broadcast to [batch, batch], with only a warning."""
        module = Supervised(nn.Linear(4, 1), "mse")
        targets = torch.randn(8, generator=DRAW)
        loss = module.training_step((INPUTS[:8], targets), 0)
        expected = (module.model(INPUTS[:8]).squeeze(1) - targets).square().mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        with pytest.raises(RuntimeError, match="shape"):
            module.training_step((INPUTS[:8], torch.randn(8, 2)), 0)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_nan_batch_is_not_left_out(loss: str, tmp_path: Path) -> None:
    """torchmetrics leaves it out by default, and the mean of the rest may then be the best so far."""
    inputs = INPUTS.clone()
    inputs[10] = torch.nan
    targets = torch.zeros(43, dtype=torch.long) if loss == "cross_entropy" else torch.zeros(43, 5)
    found = validated(Supervised(nn.Linear(4, 5), loss), loader(targets, inputs), tmp_path)
    assert np.isnan(found["val/loss"])


def test_two_validations_do_not_mix(tmp_path: Path) -> None:
    module = Supervised(nn.Linear(4, 5), "cross_entropy")
    first = validated(module, loader(TestClassification.targets), tmp_path)
    with torch.no_grad():
        module.model.weight.mul_(-3)
    second = validated(module, loader(TestClassification.targets), tmp_path)
    with torch.no_grad():
        module.model.weight.div_(-3)
    assert first != second
    assert validated(module, loader(TestClassification.targets), tmp_path) == pytest.approx(first, rel=1e-6)


def test_metrics_are_not_in_the_models_state() -> None:
    net = nn.Linear(4, 5)
    module = Supervised(net, "cross_entropy")
    assert list(module.state_dict()) == ["model.weight", "model.bias"]
    assert list(module.parameters()) == list(net.parameters())
    assert torch.equal(module(INPUTS), net(INPUTS))


def test_the_plan_uses_the_users_parameter_names() -> None:
    net = nn.Linear(4, 5)
    own = pl.LightningModule()
    assert planned_module(Supervised(net, "mse")) is net
    assert planned_module(own) is own

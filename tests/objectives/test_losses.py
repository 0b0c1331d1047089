"""The table of losses, compared with torch, and losses that a config names wrongly."""

from __future__ import annotations

import pytest
from torch import nn

from lrflow.errors import ConfigError
from lrflow.objectives import LOSSES, chosen_loss


def test_the_losses_are_those_of_torch() -> None:
    others = {"GaussianNLLLoss", "CTCLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss"}
    others |= {"CosineEmbeddingLoss", "MarginRankingLoss", "AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"}
    assert {loss.name for loss in LOSSES.values()} | others >= {
        name for name in vars(nn) if name.endswith("Loss") and name != "NLLLoss2d"
    }
    assert all(issubclass(getattr(nn, loss.name), nn.Module) for loss in LOSSES.values())


@pytest.mark.parametrize(
    ("spec", "key", "words"),
    [
        ("cross_entropi", "model.loss", "did you mean cross_entropy?"),
        ("ce", "model.loss", "did you mean cross_entropy?"),
        ("gaussian_nll", "model.loss", "LightningModule"),
        ({"name": "hubr"}, "model.loss.name", "did you mean huber?"),
        ({}, "model.loss", "expected either"),
        ({"name": "mse", "_target_": "torch.nn.MSELoss"}, "model.loss", "expected either"),
        ({"name": "mse", "reduction": "sum"}, "model.loss.reduction", "expected mean"),
    ],
)
def test_losses_that_there_are_not(spec: object, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        chosen_loss(spec)
    (problem,) = raised.value.problems
    assert problem.key == key
    assert words in str(problem)


def test_arguments_without_a_name_are_those_of_the_datas_loss() -> None:
    assert str(chosen_loss({"label_smoothing": 0.1}, "cross_entropy")) == "cross_entropy"
    own = chosen_loss({"_target_": "my_pkg.Focal"}, "cross_entropy")
    assert (own.kind, own.logged) == ("classes", ("loss", "accuracy"))
    assert chosen_loss({"_target_": "my_pkg.Focal"}).logged == ("loss",)

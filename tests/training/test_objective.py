"""Losses and metrics of a plain network, compared with torch, scikit-learn and SciPy over the whole set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import one_hot
from torchmetrics import MeanMetric

from lrflow.errors import ConfigError
from lrflow.objectives import LOSSES, ChosenScore, chosen_loss, chosen_score, in_units
from lrflow.training import Supervised
from lrflow.training.objective import Criterion, build_criterion, build_metrics

DRAW = torch.Generator().manual_seed(5)
CLASSES = torch.randint(0, 5, (43,), generator=DRAW)
LABELS = torch.randint(0, 2, (43, 4), generator=DRAW)
OUTPUTS = torch.randn(43, 5, generator=DRAW)


def scored(loss: Any, metrics: dict[str, Any], outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The metrics of a validation in 6 batches of 8, the last of 3."""
    chosen = chosen_loss(loss)
    found = {name: chosen_score(name, given, chosen, outputs.shape[1]) for name, given in metrics.items()}
    module = Supervised(nn.Identity(), build_criterion(chosen), build_metrics(found, chosen))
    for _ in range(2):  # the second set does not remember the first
        for batch in zip(outputs.split(8), targets.split(8), strict=True):
            module.count("val", *batch)
        values = module.scores("val")
    assert list(module.state_dict()) == []
    return {name.removeprefix("val/"): float(value) for name, value in values.items()}


def test_metrics_of_classes() -> None:
    names = {"f1": {}, "recall": {"average": "weighted"}, "auroc": {}, "mcc": {}, "accuracy": {"average": "micro"}}
    found = scored("cross_entropy", names, OUTPUTS, CLASSES)
    best, shares = OUTPUTS.argmax(1), OUTPUTS.double().softmax(1)
    assert found == pytest.approx(
        {
            "loss": functional.cross_entropy(OUTPUTS, CLASSES).item(),
            "accuracy": sk.accuracy_score(CLASSES, best),
            "f1": sk.f1_score(CLASSES, best, average="macro"),
            "recall": sk.recall_score(CLASSES, best, average="weighted"),
            "auroc": sk.roc_auc_score(CLASSES, shares, multi_class="ovr"),
            "mcc": sk.matthews_corrcoef(CLASSES, best),
        },
        rel=1e-5,
    )


def test_two_classes_are_binary() -> None:
    outputs, classes = OUTPUTS[:, :2], CLASSES % 2
    found = scored("nll", {"f1": {}, "auroc": {}}, outputs.log_softmax(1), classes)
    assert found["f1"] == pytest.approx(sk.f1_score(classes, outputs.argmax(1)))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(classes, outputs[:, 1] - outputs[:, 0]))


def test_metrics_of_labels() -> None:
    logits = OUTPUTS[:, :4]
    found = scored("bce_with_logits", {"f1": {}, "average_precision": {}}, logits, LABELS)
    assert found == pytest.approx(
        {
            "loss": functional.binary_cross_entropy_with_logits(logits, LABELS.float()).item(),
            "accuracy": ((logits > 0) == LABELS).double().mean().item(),
            "f1": sk.f1_score(LABELS, logits > 0, average="macro"),
            "average_precision": sk.average_precision_score(LABELS, logits, average="macro"),
        },
        rel=1e-5,
    )
    one = scored("bce", {"auroc": {}}, logits[:, :1].sigmoid(), LABELS[:, 0])
    assert one["auroc"] == pytest.approx(sk.roc_auc_score(LABELS[:, 0], logits[:, 0]))


@pytest.mark.parametrize("width", [1, 3])
def test_metrics_of_numbers(width: int) -> None:
    outputs, targets = OUTPUTS[:, :width], torch.randn(43, width, generator=DRAW)
    found = scored("huber", {"rmse": {}, "spearman": {}, "r2": {}}, outputs, targets if width > 1 else targets[:, 0])
    pairs = [(outputs[:, at].numpy(), targets[:, at].numpy()) for at in range(width)]
    assert found == pytest.approx(
        {
            "loss": functional.huber_loss(outputs, targets).item(),
            "mae": sk.mean_absolute_error(targets, outputs),
            "r2": sk.r2_score(targets, outputs),
            "rmse": sk.mean_squared_error(targets, outputs) ** 0.5,
            "spearman": np.mean([stats.spearmanr(*pair).statistic for pair in pairs]),
        },
        rel=1e-4,
    )


def test_outputs_of_poisson_nll_are_logarithms() -> None:
    outputs, counts = OUTPUTS.detach()[:, :1], CLASSES.float()
    found = scored("poisson_nll", {"rmse": {}}, outputs, counts)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(counts, outputs[:, 0].exp()), rel=1e-5)
    assert found["rmse"] == pytest.approx(sk.mean_squared_error(counts, outputs[:, 0].exp()) ** 0.5, rel=1e-5)
    plain = scored({"name": "poisson_nll", "log_input": False}, {}, outputs.exp(), counts)
    assert plain["mae"] == pytest.approx(found["mae"])


@pytest.mark.parametrize("more", [{}, {"label_smoothing": 0.2}, {"ignore_index": 1}])
def test_a_weighted_loss_over_a_set_is_that_of_one_batch(more: dict[str, Any]) -> None:
    """A mean of the batches' losses would be another number, since torch divides by the weights of each batch."""
    weights = [0.1, 5.0, 1.0, 2.0, 0.0]
    found = scored({"name": "cross_entropy", "weight": weights, **more}, {"f1": {}}, OUTPUTS, CLASSES)
    unsmoothed = {name: value for name, value in more.items() if name != "label_smoothing"}
    expected = functional.cross_entropy(OUTPUTS, CLASSES, torch.tensor(weights), **unsmoothed)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
    if more.get("ignore_index") == 1:
        kept = CLASSES != 1
        assert found["accuracy"] == pytest.approx(sk.accuracy_score(CLASSES[kept], OUTPUTS.argmax(1)[kept]))


def test_labels_are_smoothed_in_training_alone() -> None:
    chosen = chosen_loss({"name": "cross_entropy", "label_smoothing": 0.3})
    criterion, soft = Criterion(chosen), OUTPUTS.detach().flip(0).softmax(1)
    for targets in (CLASSES, soft):  # the latter as mixup makes them
        expected = functional.cross_entropy(OUTPUTS, targets, label_smoothing=0.3)
        assert criterion(OUTPUTS, targets).item() == pytest.approx(expected.item())
        by_hand = 0.7 * (one_hot(CLASSES, 5) if targets is CLASSES else soft) + 0.3 / 5
        assert expected.item() == pytest.approx(-(by_hand * OUTPUTS.log_softmax(1)).sum(1).mean().item(), rel=1e-5)
        mean = MeanMetric()
        criterion.add_to(mean, OUTPUTS, targets)
        assert mean.compute().item() == pytest.approx(functional.cross_entropy(OUTPUTS, targets).item())
    assert not criterion.state_dict()


def test_a_batch_of_ignored_targets_has_no_loss() -> None:
    targets = CLASSES.clone()
    targets[:8] = 1
    found = scored({"name": "cross_entropy", "ignore_index": 1}, {}, OUTPUTS, targets)
    assert found["loss"] == pytest.approx(functional.cross_entropy(OUTPUTS, targets, ignore_index=1).item(), rel=1e-5)


def test_targets_of_every_loss() -> None:
    """Each loss gets the targets that torch's class needs, whatever their dtype and shape."""
    logits, wrong = OUTPUTS.requires_grad_(), []
    shares = OUTPUTS.detach().softmax(1)
    given = {"classes": CLASSES, "labels": CLASSES[:, None] == torch.arange(5), "numbers": CLASSES[:, None] + shares,
             "distributions": shares, None: torch.ones(43, 5, dtype=torch.long)}  # fmt: skip
    for name, loss in LOSSES.items():
        outputs = {"log_probabilities": logits.log_softmax(1), "probabilities": logits.softmax(1)}.get(
            loss.outputs, logits
        )
        targets = given[loss.kind]
        as_torch = targets.float() if targets.dtype == torch.bool else targets
        found, expected = (
            Criterion.named(name)(outputs, targets),
            getattr(nn, loss.name)(**loss.arguments)(outputs, as_torch),
        )
        found.backward(retain_graph=True)
        if not torch.equal(found, expected):
            wrong.append(name)
    assert not wrong


def test_the_divergence_is_a_sum_over_the_outputs_and_a_mean_over_the_examples() -> None:
    guessed, shares = OUTPUTS.detach().log_softmax(1), OUTPUTS.detach().roll(1, 0).softmax(1)
    by_hand = (shares * (shares.log() - guessed)).sum() / 43
    assert scored("kl_div", {}, guessed, shares)["loss"] == pytest.approx(by_hand.item(), rel=1e-5)


def test_probabilities_as_targets_of_classes() -> None:
    soft = OUTPUTS.detach().roll(1, 0).softmax(1)
    found = scored("cross_entropy", {"f1": {}}, OUTPUTS.detach(), soft)
    assert found["loss"] == pytest.approx(functional.cross_entropy(OUTPUTS, soft).item(), rel=1e-5)
    assert found["f1"] == pytest.approx(sk.f1_score(soft.argmax(1), OUTPUTS.argmax(1), average="macro"))


def test_a_metric_of_several_values() -> None:
    loss = chosen_loss("cross_entropy")
    several = ChosenScore("torchmetrics.classification.MulticlassConfusionMatrix", {"num_classes": 5}, "multiclass")
    module = Supervised(nn.Identity(), build_criterion(loss), build_metrics({"matrix": several}, loss))
    module.count("val", OUTPUTS.detach(), CLASSES)
    with pytest.raises(ConfigError, match=r"model\.metrics\.matrix.*one number"):
        module.scores("val")


def test_a_loss_with_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameters that would have to be trained: weight, bias"):
        Criterion(chosen_loss("mse"), nn.Bilinear(1, 1, 1))


def test_the_loss_of_scaled_targets_is_in_their_units_and_the_metrics_are_not() -> None:
    loss = in_units(chosen_loss("mse"), (150.0, 70.0))
    targets = torch.randn(43, generator=DRAW) * 70 + 150
    outputs = OUTPUTS.detach()[:, :1]
    scores = build_metrics({"rmse": chosen_score("rmse", {}, loss, 1)}, loss)
    module = Supervised(nn.Identity(), build_criterion(loss), scores)
    module.count("val", outputs, targets)
    found = {name: value.item() for name, value in module.scores("val").items()}
    numbers = outputs[:, 0] * 70 + 150
    mse = sk.mean_squared_error(targets, numbers)
    expected = {"loss": mse / 70**2, "mae": sk.mean_absolute_error(targets, numbers), "rmse": mse**0.5}
    expected["r2"] = sk.r2_score(targets, numbers)
    assert found == pytest.approx({f"val/{name}": value for name, value in expected.items()}, rel=1e-4)
    assert in_units(chosen_loss("poisson_nll"), (1.0, 2.0)).units is None
    assert in_units(chosen_loss("cross_entropy"), (1.0, 2.0)).units is None

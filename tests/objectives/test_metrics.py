"""The table of metrics, compared with torchmetrics, and what is filled in by the loss."""

from __future__ import annotations

import torchmetrics
from torchmetrics import classification, regression

from lrflow.metric import Directions
from lrflow.objectives import SCORES, SEVERAL, chosen_loss, chosen_score, is_known


def test_tasks_and_directions_are_those_of_torchmetrics() -> None:
    wrong = []
    for name, score in SCORES.items():
        for task in ("binary", "multiclass", "multilabel"):
            found = getattr(classification, f"{task.capitalize()}{score.name}", None)
            if (found is not None) != (task in score.tasks):
                wrong.append(f"{name}: {task}")
            if found is not None and found.higher_is_better is not score.higher:
                wrong.append(f"{name}: {found.higher_is_better}")
        if not score.tasks and getattr(regression, score.name).higher_is_better is not score.higher:
            wrong.append(name)
    assert not wrong


def test_no_metric_of_classes_is_missing() -> None:
    bases = {
        name.removeprefix(prefix)
        for prefix in ("Binary", "Multiclass", "Multilabel")
        for name in classification.__all__
        if name.startswith(prefix)
    }
    assert bases == {score.name for score in SCORES.values() if score.tasks} | set(SEVERAL)
    others = {"KLDivergence", "JensenShannonDivergence", "ContinuousRankedProbabilityScore"}
    assert set(regression.__all__) == {score.name for score in SCORES.values() if not score.tasks} | others
    assert {name for name in torchmetrics.__all__ if is_known(f"torchmetrics.{name}")} >= {"F1Score", "R2Score", "ROC"}


def test_what_the_loss_and_the_number_of_outputs_settle() -> None:
    for loss, outputs, expected in [
        ("cross_entropy", 5, ("torchmetrics.classification.MulticlassF1Score", "multiclass", {"num_classes": 5})),
        ("cross_entropy", 2, ("torchmetrics.classification.BinaryF1Score", "binary", {})),
        ("bce_with_logits", 4, ("torchmetrics.classification.MultilabelF1Score", "multilabel", {"num_labels": 4})),
        ("bce", 1, ("torchmetrics.classification.BinaryF1Score", "binary", {})),
    ]:
        found = chosen_score("f1", {}, chosen_loss(loss), outputs)
        assert (found.target, found.task, found.arguments) == (*expected[:2], {"validate_args": False, **expected[2]})
    ignoring = chosen_loss({"name": "cross_entropy", "ignore_index": 3})
    assert chosen_score("f1", {}, ignoring, 5).arguments["ignore_index"] == 3
    assert chosen_score(
        "x", {"_target_": "torchmetrics.F1Score", "task": "multiclass"}, chosen_loss("nll"), 2
    ).task == ("multiclass")


def test_modes_are_those_of_torchmetrics() -> None:
    metrics = {
        "top3": {"_target_": "torchmetrics.Accuracy", "top_k": 3},
        "ece": {"_target_": "torchmetrics.CalibrationError"},
    }
    directions = Directions.of({"model": {"metrics": metrics}})
    assert {name: directions(name).mode for name in ("val/top3", "test/top3", "val/ece")} == {
        "val/top3": "max",
        "test/top3": "max",
        "val/ece": "min",
    }
    assert Directions.of({"model": {"metrics": ["mse"]}, "find": {"monitor": "val/mse", "mode": "max"}})(
        "val/mse"
    ).mode == ("max")

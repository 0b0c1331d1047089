"""A metric and its direction."""

from __future__ import annotations

import math

import pytest

from lrflow.metric import Directions, Metric, guess_mode, is_loss, is_validation

NAN = math.nan


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        (
            "max",
            "val_acc val/acc top1_acc acc1 val/acc@5 accuracy val/Accuracy MulticlassAccuracy valAcc val_auc AUROC "
            "roc_auc val/iou mIoU val/miou map mAP mAP50 val/map_50 dice dice_score bleu BLEU4 rouge1 rougeL f1 "
            "F1Score f1_macro val/r2 R2Score reward mean_reward rollout/return episode_returns score val/precision "
            "recall@10 psnr ssim log_likelihood ndcg success_rate average_precision",
        ),
        (
            "min",
            "val/loss valLoss val_loss/dataloader_idx_0 dice_loss iou_loss reward_loss acc_error err top1_err mae mse "
            "RMSE perplexity val/ppl wer CER fid nll kl mean_absolute_error brier_score cross_entropy "
            "neg_log_likelihood NegativeLogLikelihood",
        ),
        (None, "val/thing remap mapping accent foot val/x scorer lossy"),
    ],
)
def test_the_words_of_a_name_say_which_way_is_better(mode: str | None, names: str) -> None:
    assert {name: guess_mode(name) for name in names.split()} == dict.fromkeys(names.split(), mode)


def test_a_given_mode_wins_over_the_name_and_an_unknown_name_is_a_cost() -> None:
    assert Metric.parse("val_acc", "min") == Metric("val_acc", "min") != Metric.parse("val_acc")
    assert Metric.parse("val_acc").guessed
    assert not Metric.parse("val_acc", "max").guessed
    assert Metric.parse("val/thing").mode == "min"
    with pytest.raises(ValueError, match="min or max"):
        Metric.parse("val_acc", "most")


@pytest.mark.parametrize(
    ("mode", "value", "than", "is_better"),
    [
        ("min", 1, 2, True), ("min", 2, 1, False), ("max", 2, 1, True), ("max", 1, 2, False), ("max", 1, 1, False),
        ("max", -1, None, True), ("max", NAN, None, False), ("max", math.inf, 1, False), ("min", 1, NAN, True),
    ],
)  # fmt: skip
def test_better(mode: str, value: float, than: float | None, is_better: bool) -> None:
    assert Metric.parse("m", mode).better(value, than) is is_better


def test_the_best_of_several_leaves_out_what_is_not_finite() -> None:
    values = [2.0, NAN, 3.0, math.inf, 1.0]
    assert (Metric("m", "min").best(values), Metric("m", "max").best(values)) == (1.0, 3.0)
    assert Metric("m", "max").best([NAN]) is None
    assert [Metric("m", "max").cost(v) for v in (2.0, -2.0)] == [-2.0, 2.0]


def test_a_metric_of_validation_by_its_name() -> None:
    names = {"val/loss": True, "val_acc": True, "valAcc": True, "valid/f1": True, "validation_loss": True}
    names |= {"train/loss": False, "value_loss": False, "interval": False, "acc": False, "test/val": False, "": False}
    assert {name: is_validation(name) for name in names} == names


def config(**nodes: dict[str, object]) -> dict[str, object]:
    checkpoint = nodes.pop("checkpoint", {})
    return {"trainer": {"checkpoint": checkpoint}, **nodes}


def test_a_mode_that_is_given_once_holds_everywhere() -> None:
    said = Directions.of(
        config(checkpoint={"monitor": "val/x", "mode": None}, feedback={"monitor": "val/x", "mode": "max"})
    )
    assert said("val/x") == Metric("val/x", "max")
    assert said.objectives == (Metric("val/x", "max"),)
    assert said("val/y").guessed
    assert not [*said.conflicts()]


@pytest.mark.parametrize(
    ("nodes", "objectives"),
    [
        ({}, "val/loss (min)"),
        ({"checkpoint": {"monitor": None, "mode": None}}, "val/loss (min)"),
        ({"checkpoint": {"monitor": "val_acc", "mode": None}}, "val_acc (max)"),
        ({"checkpoint": {"monitor": "val_acc", "mode": "min"}}, "val_acc (min)"),
        ({"checkpoint": {"monitor": "val_acc"}, "sweep": {"metric": None, "mode": None}}, "val_acc (max)"),
        ({"checkpoint": {"monitor": "val_acc"}, "sweep": {"metric": "val/x"}}, "val/x (min)"),
        ({"checkpoint": {"monitor": "val/x", "mode": "max"}, "sweep": {"metric": "val/x"}}, "val/x (max)"),
        (
            {"checkpoint": {"monitor": "val/x", "mode": "max"}, "sweep": {"metric": ["val/loss", "val/x"]}},
            "val/loss (min), val/x (max)",
        ),
        ({"sweep": {"metric": ["a", "b"], "mode": ["max", "min"]}}, "a (max), b (min)"),
        ({"sweep": {"metric": ["a", "b"], "mode": "max"}}, "a (max), b (max)"),
    ],
)  # fmt: skip
def test_what_a_sweep_is_judged_by(nodes: dict[str, dict[str, object]], objectives: str) -> None:
    assert ", ".join(map(str, Directions.of(config(**nodes)).objectives)) == objectives


def test_two_modes_of_one_metric_conflict() -> None:
    said = Directions.of(config(checkpoint={"monitor": "m", "mode": "max"}, find={"monitor": "m", "mode": "min"}))
    assert [*said.conflicts()] == [("find.mode", "min", "trainer.checkpoint.mode", "max", "m")]


def test_what_a_run_folder_noted_holds_where_nobody_says_another() -> None:
    content = config(checkpoint={"monitor": "val/x", "mode": None})
    assert Directions.of(content, {"val/x": "max"})("val/x").mode == "max"
    content = config(checkpoint={"monitor": "val/x", "mode": "min"})
    assert Directions.of(content, {"val/x": "max"})("val/x").mode == "min"


def test_which_metrics_are_losses() -> None:
    names = {"train/loss": True, "valLoss": True, "test_logloss": True, "loss/2": True, "val/gloss": False, "kl": False}
    assert {name: is_loss(name) for name in names} == names

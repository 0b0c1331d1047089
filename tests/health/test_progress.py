"""What counts as an LR that is far too low, as a plateau and as overfitting, in synthetic histories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lrflow.finding import Finding
from lrflow.health import Detector, Facts, History, Overfitting, Plateau, TooLow
from lrflow.metric import Metric
from lrflow.training import Block
from lrflow.training.group_norms import GroupNorms

STEPS = 1000
T = np.arange(STEPS)
NOISE = 0.01 * np.random.default_rng(0).standard_normal(STEPS)
LINE, CURVE = 2.3 * (1 - 0.1 * T / STEPS) + NOISE, 2.3 * np.exp(-T / 60) + 0.3 + NOISE
SWING = LINE + 0.5 * np.sin(T / 20)
COSINE = 0.5 * (1 + np.cos(np.pi * T / STEPS))


def run(
    loss: np.ndarray,
    cosine: float | None = None,
    rates: np.ndarray | None = None,
    steps: int = STEPS,
    validations: dict[int, float] | None = None,
    sharpness: float | None = None,
    grad_norm: np.ndarray | None = None,
    growth: float = 1.0,
    **facts: Any,
) -> History:
    """A history with this loss and LR, and a cosine between updates that is measured at two of 50 steps."""
    rows = np.array([step for step in range(steps) if step % 50 < 2])
    one = np.ones((len(rows), 1))
    weight = np.linspace(1, growth, len(rows))[:, None]
    norms = None if cosine is None else GroupNorms(rows, one, weight, one, np.where(rows % 50, cosine, np.nan))
    lr = (np.ones(STEPS) if rates is None else rates)[:steps, None] * 1e-3
    history = History(Facts(STEPS, lr=1e-3, **facts))
    history.extend(
        Block(0, loss[:steps], (loss if grad_norm is None else grad_norm)[:steps], np.ones(steps), lr, lr, norms=norms)
    )
    for step, value in (validations or {}).items():
        history.add_validation(step, {"val/loss": value, "val/accuracy": 1 - value})
    if sharpness is not None:
        history.add_sharpness(steps, 1.0, sharpness)
    return history


def judge(detector: Detector, history: History) -> Finding | None:
    detector.kind = "kind"
    return detector.judge(history)


@pytest.mark.parametrize(
    ("history", "lr"),
    [
        (lambda: run(LINE, 0.99, momentum=0.9), 0.1),
        (lambda: run(100 * LINE, 0.99, momentum=0.9), 0.1),
        (lambda: run(LINE, 0.4), 0.1),
        (lambda: run(2.3 * (1 - 0.1 * np.cumsum(COSINE) / COSINE.sum()) + NOISE, 0.99, COSINE, momentum=0.9), 0.05),
        (lambda: run(2.3 + NOISE, 0.99, momentum=0.9), 1.0),
        (lambda: run(LINE, 0.99, momentum=0.9, steps=200), 0.1),
        (lambda: run(LINE, 0.99, momentum=0.9, sharpness=0.02), 0.02),
        (lambda: run(LINE, 0.9, momentum=0.9), None),
        (lambda: run(LINE, 0.05), None),
        (lambda: run(CURVE, 0.99, momentum=0.9), None),
        (lambda: run(SWING, 0.99, momentum=0.9), None),
        (lambda: run(2 * 2.3 - LINE, 0.99, momentum=0.9), None),
        (lambda: run(2.3 * (1 - 0.8 * T / STEPS) + NOISE, 0.99, momentum=0.9, steps=600), 0.01),
        (lambda: run(np.maximum(2.3 * (1 - 3 * T / STEPS), 0.3) + NOISE, 0.99, momentum=0.9, steps=250), None),
        (lambda: run(LINE, 0.99, np.where(T < 100, 1.0, 0.1), momentum=0.9), None),
        (lambda: run(LINE, 0.99, momentum=0.9, steps=140, warmup=100), None),
        (lambda: run(LINE, 0.99, momentum=0.9, sharpness=0.5), None),
        (lambda: run(LINE), None),
        (lambda: run(LINE, 0.99, momentum=float("nan")), None),
        (lambda: run(LINE, 0.99, momentum=0.9, losses=False), None),
        (lambda: run(LINE, 0.99, momentum=0.9, estimates=True), None),
        (lambda: run(np.full(STEPS, np.nan), 0.99, momentum=0.9), None),
        (lambda: run(LINE, 0.99, momentum=0.9, steps=5), None),
    ],
    ids=[
        "a straight line", "of any scale", "SGD", "a straight line in the sum of LRs", "no fall", "early",
        "keeps to half of the stability bound", "updates of noise", "SGD near the best LR", "converged",
        "swings, as of sorted examples", "rises", "a steep line", "falls fast enough", "the plan's LR is low",
        "shortly after the warmup", "at the edge of stability", "no norms", "unknown momentum", "no loss",
        "estimates its LR", "not finite", "a few steps",
    ],
)  # fmt: skip
def test_too_low(history: Callable[[], History], lr: float | None) -> None:
    finding = judge(TooLow(), history())
    if lr is None:
        assert finding is None
    else:
        assert finding is not None
        proposed = float(finding.remedy.split(",")[0].removeprefix("optimizer.lr="))
        assert lr / 1.5 <= proposed <= 1.5 * lr
        assert finding.since <= 100


FALLS = np.linspace(1.0, 0.2, 10)
RISES = np.array([1.0, 0.6, 0.4, 0.3, 0.32, 0.35, 0.4, 0.45, 0.5, 0.55])


def validated(values: np.ndarray, loss: np.ndarray = CURVE - 0.3 * T / STEPS, **facts: Any) -> History:
    return run(loss, validations=dict(zip(range(100, 1001, 100), values.tolist(), strict=False)), **facts)


@pytest.mark.parametrize(
    ("history", "since"),
    [
        (lambda: validated(RISES), 400),
        (lambda: validated(RISES, metric=Metric("val/accuracy", "max")), 400),
        (lambda: validated(RISES[:9]), 400),
        (lambda: validated(RISES[:6]), None),
        (lambda: validated(FALLS), None),
        (lambda: validated(FALLS, metric=Metric("val/accuracy", "max")), None),
        (lambda: validated(np.r_[RISES[:4], [0.3005] * 6]), None),
        (lambda: validated(0.5 + 0.2 * np.array([1, -1, 1.2, -1.2, 0.8, -1, 1, -0.9, 1.1, 0.9])), None),
        (lambda: validated(RISES, loss=CURVE[::-1]), None),
        (lambda: validated(RISES, metric=Metric("val/f1", "max")), None),
        (lambda: validated(RISES, losses=False), None),
        (lambda: validated(np.where(RISES > 0.5, np.nan, RISES)), None),
        (lambda: run(CURVE), None),
    ],
    ids=[
        "rises", "falls, and more is better", "five validations suffice", "too few", "falls",
        "rises, and more is better", "stays", "scatters", "training diverges", "is not logged", "no loss", "not finite",
        "no validations",
    ],
)  # fmt: skip
def test_overfitting(history: Callable[[], History], since: int | None) -> None:
    finding = judge(Overfitting(), history())
    assert (finding.since if finding else None) == since
    if finding:
        assert finding.remedy == "callbacks=early_stopping"


def test_overfitting_names_a_higher_weight_decay() -> None:
    finding = judge(Overfitting(), validated(RISES, weight_decay=0.01))
    assert finding is not None
    assert finding.remedy.endswith("optimizer.weight_decay=0.03")


STUCK = np.array([1.0, 0.3, 0.301, 0.3005, 0.302, 0.3, 0.3015])
FLOOR = np.maximum(2.3 - T / 50, 0.3) + NOISE
FADES = np.where(T < 100, 1.0, 0.01)


@pytest.mark.parametrize(
    ("history", "remedy"),
    [
        (lambda: validated(STUCK, FLOOR, steps=700), "schedule=cosine, or callbacks=early_stopping"),
        (lambda: validated(STUCK, FLOOR, steps=700, rates=0.5 + COSINE / 2), "schedule=cosine"),
        (lambda: validated(STUCK, FLOOR, steps=700, sharpness=0.02, cosine=0.6), "optimizer.lr=0.01"),
        (lambda: validated(STUCK, FLOOR, steps=700, sharpness=0.9, cosine=0.6), "schedule=cosine"),
        (lambda: validated(STUCK, 2 + FLOOR, steps=700, grad_norm=FADES, cosine=0.05), "optimizer.lr=0.003"),
        (lambda: validated(STUCK, 2 + FLOOR, steps=700, grad_norm=FADES), "schedule=cosine"),
        (lambda: validated(STUCK, 2 + FLOOR, steps=700, grad_norm=FADES, cosine=0, growth=3), "optimizer.lr=0.00033"),
        (lambda: validated(STUCK, FLOOR, steps=700, cosine=0.6, growth=3), "schedule=cosine, or optimizer.lr=0.000333"),
        (lambda: validated(STUCK, FLOOR, steps=700, grad_norm=FADES), None),
        (lambda: validated(STUCK, FLOOR - 0.2, steps=700), None),
        (lambda: validated(STUCK, FLOOR, steps=700, rates=COSINE), None),
        (lambda: validated(STUCK, FLOOR, steps=700, cosine=0.6), "optimizer.lr=0.003"),
        (lambda: validated(STUCK, FLOOR, steps=700, metric=Metric("val/accuracy", "max")), "schedule=cosine"),
        (lambda: run(FLOOR, steps=650), "schedule=cosine"),
        (lambda: validated(STUCK[:6], FLOOR, steps=600), None),
        (lambda: validated(np.r_[STUCK, STUCK[-2:]], FLOOR, steps=900), None),
        (lambda: validated(FALLS[:7], FLOOR, steps=700), None),
        (lambda: validated(RISES[:7], FLOOR, steps=700), None),
        (lambda: validated(0.5 + 0.2 * np.array([1, -1, 1.2, -1.2, 0.8, -1, 1]), 0.5 + NOISE, steps=700), None),
        (lambda: validated(STUCK, FLOOR, steps=700, metric=Metric("val/return", "max"), losses=False), None),
        (lambda: validated(STUCK, FLOOR, steps=700, warmup=300), None),
        (lambda: validated(np.r_[STUCK[:-1], np.nan], FLOOR, steps=700), None),
        (lambda: run(CURVE, steps=100), None),
    ],
    ids=[
        "plateau", "the LR has decayed a little", "low curvature", "high curvature", "saddle", "no norms",
        "the LR was too high", "moves far", "the gradients are gone",
        "the loss is at its floor", "the schedule is nearly over", "flat region", "more is better", "no validations",
        "not for long", "nearly over", "falls", "overfits", "never improved", "no metric", "soon after the warmup",
        "not finite",
        "a few steps",
    ],
)  # fmt: skip
def test_plateau(history: Callable[[], History], remedy: str | None) -> None:
    finding = judge(Plateau(), history())
    assert (finding is None) == (remedy is None)
    if finding and remedy:
        assert finding.remedy.startswith(remedy)
        assert 100 <= finding.since <= 200


@pytest.mark.parametrize(
    "facts", [{"rates": COSINE}, {"loss": FLOOR - 0.2}, {"grad_norm": FADES, "cosine": 0.05}],
    ids=["the LR has decayed", "the loss is at its floor", "the gradients are gone"],
)  # fmt: skip
def test_a_converged_run_is_a_plateau_to_which_an_action_responds(facts: dict[str, Any]) -> None:
    history = validated(STUCK, **{"loss": FLOOR, "steps": 700} | facts)
    assert judge(Plateau(action="watch"), history) is None
    for action in ("restart", "stop"):
        finding = judge(Plateau(action=action), history)
        assert finding is not None
        assert finding.message == "val/loss has not improved on 0.3 for 500 steps"
        assert finding.remedy == "callbacks=early_stopping"

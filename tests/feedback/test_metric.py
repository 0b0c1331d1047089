"""Plateau equals torch's ReduceLROnPlateau for each reading, except where that is wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from lrflow.feedback import Plateau

SERIES = st.lists(st.one_of(st.floats(0, 4), st.sampled_from([0.0, 0.5, 1.0, 1.0 - 1e-4, 1.0 - 2e-4])), max_size=40)


def torchs(readings: list[float], **settings: Any) -> list[float]:
    """Return the factors of torch's class, started at LR 1 and without a smallest change."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, eps=0.0, **settings)
    found = []
    for reading in readings:
        scheduler.step(reading)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def both(readings: list[float], min_factor: float, **settings: Any) -> tuple[list[float], list[float]]:
    feedback, found = Plateau(min_factor=min_factor, **settings), []
    for reading in readings:
        feedback.update(reading)
        found.append(feedback.factor)
    return found, torchs(readings, min_lr=min_factor, **settings)


@limits(deadline=None)  # torch's first optimizer takes seconds
@given(
    readings=SERIES,
    mode=st.sampled_from(["min", "max"]),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.3]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 3),
    min_factor=st.sampled_from([1e-6, 0.05, 0.3]),
)
def test_every_reading_gives_the_factor_that_torch_gives(readings: list[float], **settings: Any) -> None:
    ours, theirs = both(readings, **settings)
    assert ours == theirs


@limits(deadline=None)
@given(st.lists(st.floats(-4, 4), max_size=30), st.sampled_from(["min", "max"]))
def test_negative_metrics_too_with_an_absolute_threshold(readings: list[float], mode: str) -> None:
    ours, theirs = both(readings, 1e-6, mode=mode, threshold=0.1, threshold_mode="abs", patience=1)
    assert ours == theirs


def test_what_torch_gets_wrong_a_worse_negative_metric_is_no_improvement(factors: Any) -> None:
    worsening = [-1.0, -0.99995, -0.9999, -0.99985]  # by half of the threshold each
    assert torchs(worsening, patience=0)[-1] == 1.0
    assert factors(Plateau(patience=0, factor=0.5), worsening) == [1.0, 0.5, 0.25, 0.125]


def test_readings_that_are_not_finite_are_no_improvement(factors: Any) -> None:
    feedback = Plateau(patience=1, factor=0.5)
    assert factors(feedback, [math.nan, -math.inf, 1.0, math.inf, math.nan, 0.5, 0.4]) == [
        1,
        0.5,
        0.5,
        0.5,
        0.25,
        0.25,
        0.25,
    ]


@example(readings=[1.0, 1.0, 0.5, 0.5, 0.5, 0.5], at=4)
@given(readings=st.lists(st.floats(0, 2), min_size=1, max_size=20), at=st.integers(0, 20))
def test_it_resumes_from_its_state(readings: list[float], at: int) -> None:
    whole, first = Plateau(patience=1, cooldown=1), Plateau(patience=1, cooldown=1)
    for reading in readings[:at]:
        first.update(reading)
    second = Plateau(patience=1, cooldown=1)
    second.load_state_dict(first.state_dict())
    for reading in readings[at:]:
        second.update(reading)
    for reading in readings:
        whole.update(reading)
    assert second.state_dict() == whole.state_dict()


def test_a_factor_out_of_todays_bounds_goes_to_the_nearest() -> None:
    feedback = Plateau(min_factor=0.1)
    feedback.load_state_dict({"factor": 0.001, "best": 1.0, "bad": 0, "cooling": 0})
    assert feedback.factor == 0.1


def test_its_description() -> None:
    feedback = Plateau(monitor="val/accuracy", mode="max", patience=3)
    assert feedback.describe() == "plateau on val/accuracy (max): x0.1 after 4 readings without improvement"
    assert feedback.lr_range == "the LR used may go down to 0.001x of the planned one"


def test_all_values_out_of_range_are_reported_at_once(wrong: Any) -> None:
    settings = {"mode": "low", "threshold": -1, "threshold_mode": "x", "factor": 1.0, "patience": -1, "cooldown": -1}
    assert wrong(Plateau, **settings) == {f"feedback.{name}" for name in settings}
    assert wrong(Plateau, min_factor=0, monitor="train/loss", every="often") == {
        "feedback.min_factor",
        "feedback.every",
    }


def test_every_is_an_error_for_validation_metrics(wrong: Any) -> None:
    assert wrong(Plateau, monitor="val/loss", every="3 epochs") == {"feedback.every"}


def test_a_better_reading_is_better_by_more_than_the_threshold(factors: Any) -> None:
    share, difference = (Plateau(patience=0, factor=0.5, threshold=0.25, threshold_mode=of) for of in ("rel", "abs"))
    assert factors(share, [4.0, 3.0, 2.9]) == [1.0, 0.5, 0.5]
    assert factors(difference, [4.0, 3.75, 3.7]) == [1.0, 0.5, 0.5]

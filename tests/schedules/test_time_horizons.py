"""Horizons: counting optimizer steps, and the phase of a run that a shape fills."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrflow.schedules import Horizon, Phase


@pytest.mark.parametrize(
    ("arguments", "steps", "steps_per_epoch"),
    [
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3}, 30, 10),
        ({"examples": 1001, "batch_size": 100, "max_epochs": 3}, 33, 11),  # an incomplete last batch
        ({"examples": 1001, "batch_size": 100, "drop_last": True, "max_epochs": 3}, 30, 10),
        ({"examples": 1001, "batch_size": 100, "devices": 2, "max_epochs": 1}, 6, 6),  # 501 examples each
        ({"examples": 1001, "batch_size": 100, "devices": 2, "drop_last": True, "max_epochs": 1}, 5, 5),
        ({"examples": 5, "batch_size": 1, "devices": 8, "max_epochs": 1}, 1, 1),  # padded: one example each
        ({"examples": 1000, "batch_size": 100, "accumulate": 4, "max_epochs": 3}, 9, 3),  # 4 + 4 + 2 batches
        ({"examples": 1000, "batch_size": 100, "accumulate": 16, "max_epochs": 3}, 3, 1),
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "max_steps": 25}, 25, 10),
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "max_steps": 250}, 30, 10),
        ({"examples": 1000, "batch_size": 100, "max_steps": 250}, 250, 10),
        ({"examples": 1000, "batch_size": 100, "max_epochs": -1, "max_steps": 250}, 250, 10),
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "max_steps": -1}, 30, 10),
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "limit_batches": 4}, 12, 4),
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "limit_batches": 99}, 30, 10),
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "limit_batches": 1}, 3, 1),  # one batch ...
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "limit_batches": 1.0}, 30, 10),  # ... and all of them
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3, "limit_batches": 0.25}, 6, 2),  # rounded down
        ({"examples": 1000, "batch_size": 100, "accumulate": 2, "max_epochs": 2, "limit_batches": 5}, 6, 3),
        ({"batches": 10, "accumulate": 3, "max_epochs": 2}, 8, 4),
        ({"batches": 10, "devices": 4, "max_epochs": 2}, 20, 10),  # a device's own batches are not shared out again
    ],
)
def test_steps_are_counted_as_the_trainer_makes_them(
    arguments: dict[str, int], steps: int, steps_per_epoch: int
) -> None:
    assert Horizon.count(**arguments).same_length(Horizon(steps, steps_per_epoch))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"examples": 0, "max_epochs": 1}, "no batch in an epoch: 0 examples"),
        ({"examples": 50, "batch_size": 100, "drop_last": True, "max_epochs": 1}, "the incomplete last one dropped"),
        ({"batches": 0, "max_epochs": 1}, "no batch in an epoch"),
        ({"batches": 10, "limit_batches": 0, "max_epochs": 1}, "limit_batches=0 leaves none"),
        ({"batches": 10, "limit_batches": 0.05, "max_epochs": 1}, "limit_batches=0.05 leaves none"),
        ({"batches": 10}, "give max_epochs, max_steps or max_samples"),
        ({"batches": 10, "max_epochs": -1, "max_steps": -1}, "give max_epochs, max_steps"),
        ({"batches": 10, "max_epochs": 0}, "max_epochs is a whole number >= 1, not 0"),
        ({"batches": 10, "max_steps": 0}, "max_steps is a whole number >= 1"),
        ({"batches": 10, "accumulate": 0, "max_epochs": 1}, "accumulate is a whole number >= 1"),
        ({"examples": 10, "batch_size": 0, "max_epochs": 1}, "batch_size is a whole number >= 1"),
        ({"examples": 10, "devices": 2.5, "max_epochs": 1}, "devices is a whole number >= 1"),
        ({"examples": 10, "batches": 10, "max_epochs": 1}, "one of the two"),
        ({"max_epochs": 1}, "give max_epochs, max_steps or max_samples"),  # of epochs without an end
        ({"batches": 10, "max_samples": 0, "samples_per_batch": 1}, "max_samples is a whole number >= 1"),
        ({"batches": 10, "max_samples": 99}, "the samples per optimizer step are unknown"),
        ({"examples": 99, "batch_size": 10, "devices": 2, "max_samples": 19}, "sees 20 samples, so 19 are less than"),
        ({"batches": 10, "max_epochs": 1, "samples_per_batch": -1.0}, "samples_per_step is a number above 0"),
    ],
)
def test_impossible_runs_are_errors(arguments: dict[str, int], fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment):
        Horizon.count(**arguments)


@pytest.mark.parametrize(
    ("arguments", "samples", "steps"),
    [
        ({"examples": 1000, "batch_size": 100, "max_epochs": 3}, 100.0, 30),
        ({"examples": 1000, "batch_size": 100, "devices": 2, "accumulate": 4, "max_epochs": 1}, 800.0, 2),
        ({"batches": 10, "max_epochs": 3}, None, 30),
        ({"batches": 10, "max_epochs": 3, "samples_per_batch": 64, "devices": 2}, 128.0, 30),
        ({"batches": 10, "max_epochs": 3, "samples_per_batch": 64, "max_samples": 1000}, 64.0, 15),  # 15.6
        ({"batches": 10, "max_epochs": 1, "samples_per_batch": 64, "max_samples": 1000}, 64.0, 10),
        ({"batches": 10, "max_steps": 7, "samples_per_batch": 64, "max_samples": 1000}, 64.0, 7),
        ({"batches": 10, "max_samples": 640, "samples_per_batch": 64}, 64.0, 10),
        ({"max_samples": 1_000_000, "samples_per_batch": 2048, "max_epochs": 1}, 2048.0, 488),  # a stream
        ({"max_samples": 3, "samples_per_batch": 0.1}, 0.1, 30),  # and not 29.999999999999996
    ],
)
def test_samples_are_counted_over_devices_and_accumulation(
    arguments: dict[str, int], samples: float | None, steps: int
) -> None:
    horizon = Horizon.count(**arguments)
    assert (horizon.samples_per_step, horizon.steps) == (samples, steps)


@given(
    examples=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    drop_last=st.booleans(),
    devices=st.integers(1, 5),
    accumulate=st.integers(1, 7),
    epochs=st.integers(1, 4),
)
def test_counting_agrees_with_walking_through_the_batches(
    examples: int, batch_size: int, drop_last: bool, devices: int, accumulate: int, epochs: int
) -> None:
    padded = list(range(examples)) + [0] * (-examples % devices)
    shard = padded[::devices]
    batches = [shard[i : i + batch_size] for i in range(0, len(shard), batch_size)]
    if drop_last:
        batches = [batch for batch in batches if len(batch) == batch_size]
    steps = 0
    for _ in range(epochs):
        for i in range(len(batches)):
            steps += (i + 1) % accumulate == 0 or i + 1 == len(batches)
    settings = {"batch_size": batch_size, "drop_last": drop_last, "devices": devices, "accumulate": accumulate}
    if not batches:
        with pytest.raises(ValueError, match="no batch"):
            Horizon.count(examples, max_epochs=epochs, **settings)
    else:
        assert Horizon.count(examples, max_epochs=epochs, **settings).steps == steps


@pytest.mark.parametrize("arguments", [(0,), (-1,), (2.5,), (True,), (10, 0), (10, 1.5)])
def test_a_horizon_is_whole_and_not_empty(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="whole number >= 1"):
        Horizon(*arguments)


def test_the_length_in_epochs() -> None:
    assert Horizon(250, 100).epochs == 2.5
    with pytest.raises(ValueError, match="no steps_per_epoch"):
        _ = Horizon(250).epochs


def test_a_phase_knows_how_much_of_it_is_over() -> None:
    phase = Phase(10, 30, Horizon(40))
    steps = np.array([0.0, 10.0, 15.0, 20.0, 30.0, 40.0])
    assert phase.steps == 20
    assert phase.elapsed(steps).tolist() == [0, 0, 5, 10, 20, 20]
    assert phase.progress(steps).tolist() == [0, 0, 0.25, 0.5, 1, 1]


def test_an_empty_phase_has_not_begun() -> None:
    assert Phase(10, 10, Horizon(20)).progress(np.array([5.0, 10.0, 15.0])).tolist() == [0, 0, 0]

"""Shapes on their own: where they land, where they jump, what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.schedules import (
    Constant,
    Cosine,
    Duration,
    Exponential,
    Horizon,
    Linear,
    MultiStep,
    Phase,
    Polynomial,
    Shape,
    Step,
)

SHAPES = [
    Constant(),
    Linear(),
    Cosine(),
    Polynomial(3),
    Exponential(0.5, 10),
    Exponential(0.5, 10, True),
    Step(0.5, 10),
    MultiStep(),
]


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_every_shape_starts_at_its_peak_and_holds_outside_its_phase(shape: Shape) -> None:
    phase = Phase(20, 80, Horizon(100))
    before, first, last, after = shape(np.array([0.0, 20.0, 80.0, 100.0]), phase)
    assert before == first == 1.0
    assert last == after


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_a_shape_that_lands_is_at_zero_at_the_end_of_its_phase(shape: Shape) -> None:
    end = shape(np.array([80.0]), Phase(20, 80, Horizon(100)))[0]
    assert (end == 0.0) == shape.lands


@pytest.mark.parametrize(
    ("shape", "phase", "jumps"),
    [
        (Cosine(), (0, 100), ()),
        (Exponential(0.5, 10), (0, 100), ()),
        (Exponential(0.5, 30, staircase=True), (0, 100), (30, 60, 90)),
        (Exponential(0.5, 30, staircase=True), (25, 100), (55, 85)),  # from the phase's start
        (Step(0.5, 30), (0, 100), (30, 60, 90)),
        (Step(0.5, 30), (25, 100), (30, 60, 90)),  # on the run's clock
        (Step(0.5, 30), (30, 90), (60,)),  # neither at the peak nor at the end
        (Step(0.5, "25%"), (0, 100), (25, 50, 75)),
        (Step(0.5, "1 epoch"), (0, 50), (20, 40)),
        (MultiStep(0.5, ["50%", "75%"]), (0, 100), (50, 75)),
        (MultiStep(0.5, ["1 epoch", 50, "75%"]), (30, 60), (50,)),
    ],
)
def test_the_steps_at_which_shapes_fall(shape: Shape, phase: tuple[int, int], jumps: tuple[int, ...]) -> None:
    stretch = Phase(*phase, Horizon(100, 20))
    assert shape.jumps(stretch) == jumps
    before, at = (shape(np.array(jumps, dtype=float) - nudge, stretch) for nudge in (1e-6, 0.0))
    assert np.allclose(at, 0.5 * before)


@pytest.mark.parametrize("gamma", [0, -0.1, 1.1, float("nan"), "fast", None, True])
@pytest.mark.parametrize("shape", [Exponential, Step, MultiStep])
def test_gamma_is_a_factor_that_lowers(shape: type[Shape], gamma: float) -> None:
    with pytest.raises(ConfigError, match=r"schedule.shape.gamma = .*expected a number above 0 to 1"):
        shape(gamma=gamma)


@pytest.mark.parametrize("power", [0, -1, float("inf"), "2"])
def test_a_power_is_above_zero(power: float) -> None:
    with pytest.raises(ConfigError, match=r"schedule.shape.power = .*expected a number above 0"):
        Polynomial(power)


@pytest.mark.parametrize("milestones", ["50%", 50, [], None, 0.5])
def test_milestones_are_a_list(milestones: object) -> None:
    with pytest.raises(ConfigError, match=r"schedule.shape.milestones = .*expected a list"):
        MultiStep(milestones=milestones)


def test_everything_wrong_with_a_shape_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MultiStep(gamma=2, milestones=["50%", "soon", -3])
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["schedule.shape.gamma", "schedule.shape.milestones[1]", "schedule.shape.milestones[2]"]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Exponential(0.9, "1 epoch"), []),
        (Exponential(0.9, 1000), []),  # smooth: it need not come round
        (Exponential(0.9, 1000, staircase=True), ["every: is 1000 steps, so the LR never falls"]),
        (Exponential(0.9, "0.1%"), ["every: is shorter than one step"]),
        (Step(0.1, "30%"), []),
        (Step(0.1, 90), ["every: is 90 steps, so the LR never falls between step 10 and step 90"]),
        (Step(0.1, 0), ["every: is shorter than one step"]),
        (MultiStep(), []),
        (MultiStep(milestones=[5]), ["milestones[0]: is step 5, in the warmup, which ends at step 10"]),
        (MultiStep(milestones=[95]), ["milestones[0]: is step 95, in the cooldown, which starts at 90"]),
        (MultiStep(milestones=["6 epochs"]), ["milestones[0]: is step 120, but the run has 100"]),
        (
            MultiStep(milestones=[50, 40, 40]),
            ["milestones[1]: is step 40, not after", "milestones[2]: is step 40, not after"],
        ),
    ],
    ids=repr,
)
def test_what_cannot_be_meant_with_a_phase(shape: Shape, said: list[str]) -> None:
    problems = shape.check(Phase(10, 90, Horizon(100, 20)))
    texts = [f"{problem.key}: {problem.message}" for problem in problems]
    assert len(texts) == len(said)
    assert all(text.startswith(start) for text, start in zip(texts, said, strict=True)), texts


@pytest.mark.parametrize("shape", [Exponential(), Step(every="1 epoch"), MultiStep(milestones=["50%", "3 epochs"])])
def test_epochs_of_unknown_length_are_a_problem_before_they_are_an_error(shape: Shape) -> None:
    phase = Phase(0, 100, Horizon(100))
    assert [problem.message for problem in shape.check(phase)] == [
        f"{'3 epochs' if isinstance(shape, MultiStep) else '1 epoch'} cannot be counted in steps: "
        "the horizon has no steps_per_epoch"
    ]
    with pytest.raises(ValueError, match="no steps_per_epoch"):
        shape(np.array([1.0]), phase)


def test_shapes_are_values() -> None:
    assert Step(0.1, "30%") == Step(0.1, Duration(0.3, "fraction"))
    assert hash(MultiStep(milestones=["50%"])) == hash(MultiStep(milestones=("50%",)))
    assert Exponential(0.9, 10) != Exponential(0.9, 11)

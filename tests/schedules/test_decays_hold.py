"""`hold`: an LR that changes only every so many steps, as under a scheduler that is stepped once per epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from lrflow.schedules import (
    Continued,
    Cosine,
    Exponential,
    Horizon,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
)
from lrflow.schedules.serialization import from_spec, to_spec

EPOCHS, EACH = 30, 17
RUN = Horizon(EPOCHS * EACH, EACH, 64.0)

Make = Callable[[Optimizer], LRScheduler]
STEPPED_ONCE_AN_EPOCH: dict[str, tuple[Schedule, Make]] = {
    "cosine": (Schedule(Cosine(), hold="1 epoch"), lambda o: CosineAnnealingLR(o, EPOCHS)),
    "multistep": (
        Schedule(MultiStep(0.1, ["10 epochs", "20 epochs"]), hold="1 epoch"),
        lambda o: MultiStepLR(o, [10, 20], 0.1),
    ),
    "step": (Schedule(Step(0.5, "4 epochs"), hold="1 epoch"), lambda o: StepLR(o, 4, 0.5)),
    "exponential": (Schedule(Exponential(0.9, "1 epoch"), hold="1 epoch"), lambda o: ExponentialLR(o, 0.9)),
    "polynomial": (Schedule(Polynomial(2), hold="1 epoch"), lambda o: PolynomialLR(o, EPOCHS, 2)),
    "a warmup of epochs": (  # as in torchvision's references
        Schedule(Cosine(), "5 epochs", 0.01, hold="1 epoch"),
        lambda o: SequentialLR(o, [LinearLR(o, 0.01, total_iters=5), CosineAnnealingLR(o, EPOCHS - 5)], [5]),
    ),
}


@pytest.mark.parametrize("name", STEPPED_ONCE_AN_EPOCH)
def test_it_is_a_torch_scheduler_that_is_stepped_once_an_epoch(
    name: str, torch_multipliers: Callable[[Make, int], np.ndarray]
) -> None:
    schedule, make = STEPPED_ONCE_AN_EPOCH[name]
    theirs = np.repeat(torch_multipliers(make, EPOCHS), EACH)
    np.testing.assert_allclose(schedule(np.arange(RUN.steps), RUN), theirs, rtol=1e-9, atol=1e-12)
    assert not schedule.check(RUN)


def test_annealing_once_an_iteration() -> None:
    """1 - (iteration - 1) / iterations, as PPO's LR is annealed, each iteration making 40 steps."""
    iterations = np.arange(1, 26)
    annealed = np.repeat(1 - (iterations - 1) / 25, 40)
    for hold in ("40 steps", 40, "4%", "2560 samples"):
        schedule = Schedule(Linear(), hold=hold)
        np.testing.assert_allclose(schedule(np.arange(1000), Horizon(1000, None, 64.0)), annealed, rtol=1e-12)


def test_no_stretch_is_spent_at_zero_and_all_rises_are_equal() -> None:
    schedule = Schedule(Cosine(), warmup="4 epochs", hold="1 epoch")
    np.testing.assert_allclose(schedule(np.arange(5) * EACH, RUN), [0.2, 0.4, 0.6, 0.8, 1.0])


def test_its_jumps_are_declared() -> None:
    schedule = Schedule(MultiStep(0.1, ["50%"]), hold="2 epochs")
    assert schedule.jumps(RUN) == (16 * EACH,)  # held beyond the 15th epoch's end
    assert len(Schedule(Cosine(), hold="1 epoch").jumps(RUN)) == EPOCHS


def test_extending_stretches_holds_too() -> None:
    short, long = Horizon(100), Horizon(160)
    schedule = Continued(Schedule(Linear(), hold=20), 40, short, "extend")
    expected = [1, 0.8, *(0.6, 0.6), *(0.4, 0.4), *(0.2, 0.2)]
    np.testing.assert_allclose(schedule(np.arange(160), long), np.repeat(expected, 20))


def test_other_settings_are_held_like_the_lr() -> None:
    also = {"momentum": {"low": 0.8}, "weight_decay": {"low": 0.1, "shape": Linear(), "warmup": 5}}
    schedule = Schedule(Cosine(), hold=10, also=also)
    alone, ((_, momentum), (_, decay)) = schedule.split_settings()
    assert momentum == alone
    np.testing.assert_allclose(decay([7, 10, 19, 20], Horizon(105)), [0.0, 0.95, 0.95, 0.85])
    assert not schedule.check(Horizon(105))


@pytest.mark.parametrize(
    ("schedule", "fragment"),
    [
        (Schedule(Cosine(), hold="30 epochs"), "is 510 steps, but the run has only 510"),
        (Schedule(Cosine(), warmup=20, hold="1 epoch"), "and a warmup of 20 is not a multiple of it"),
        (Schedule(OneCycle(), hold="6 epochs"), "the LR would not rise above 95% of its peak"),
    ],
)
def test_invalid_holds(schedule: Schedule, fragment: str) -> None:
    (problem,) = schedule.check(RUN)
    assert problem.key == "schedule.hold"
    assert fragment in problem.message


def test_a_cycle_that_rises_for_whole_holds_is_fine() -> None:
    schedule = Schedule(OneCycle(rise="10 epochs"), hold="5 epochs")
    assert not schedule.check(RUN)
    assert schedule(np.arange(RUN.steps), RUN).max() == 1.0


def test_epochs_need_their_length() -> None:
    (problem,) = Schedule(Cosine(), hold="1 epoch").check(Horizon(100))
    assert (problem.key, problem.value) == ("schedule.hold", "1 epoch")


def test_it_is_omitted_from_the_spec_at_its_default() -> None:
    for hold in (None, 0, "0%", "0 steps"):
        assert "hold" not in to_spec(Schedule(Cosine(), hold=hold))
    held = Schedule(Cosine(), hold="1 epoch")
    assert to_spec(held)["hold"] == "1 epoch"
    assert from_spec(to_spec(held)) == held

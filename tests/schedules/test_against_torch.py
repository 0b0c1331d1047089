"""Each schedule against torch's own scheduler, over every step of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from lrflow.schedules import (
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    Horizon,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Shape,
    Step,
    WarmRestarts,
)

STEPS = 1000
RUN = Horizon(STEPS, 100)
WARMUP = 50

Make = Callable[[Optimizer], LRScheduler]


def rise(optimizer: Optimizer) -> LRScheduler:
    """A linear warmup whose first step is one of WARMUP + 1 equal rises."""
    return LinearLR(optimizer, start_factor=1 / (WARMUP + 1), total_iters=WARMUP)


def chain(*parts: tuple[int, Make]) -> Make:
    """Schedulers one after the other, each for so many steps."""
    ends = np.cumsum([steps for steps, _ in parts])[:-1].tolist()
    return lambda optimizer: SequentialLR(optimizer, [make(optimizer) for _, make in parts], milestones=ends)


def huggingface(decay: Callable[[float], float]) -> Make:
    """The warmup and decay of the transformers library: from 0 in WARMUP steps, then the decay of progress."""

    def factor(step: int) -> float:
        return step / WARMUP if step < WARMUP else decay((step - WARMUP) / (STEPS - WARMUP))

    return lambda optimizer: LambdaLR(optimizer, factor)


CASES: dict[str, tuple[Schedule, Make]] = {
    "constant": (Schedule(Constant()), lambda o: ConstantLR(o, factor=1.0)),
    "linear": (Schedule(Linear()), lambda o: LinearLR(o, 1.0, 0.0, STEPS)),
    "linear to a floor": (Schedule(Linear(), floor=0.1), lambda o: LinearLR(o, 1.0, 0.1, STEPS)),
    "cosine": (Schedule(Cosine()), lambda o: CosineAnnealingLR(o, STEPS)),
    "cosine to a floor": (Schedule(Cosine(), floor=0.1), lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.1)),
    "polynomial": (Schedule(Polynomial(2.0)), lambda o: PolynomialLR(o, STEPS, 2.0)),
    "polynomial, power 0.9": (Schedule(Polynomial(0.9)), lambda o: PolynomialLR(o, STEPS, 0.9)),
    "exponential": (Schedule(Exponential(0.99, 1)), lambda o: ExponentialLR(o, 0.99)),
    "exponential by epochs": (Schedule(Exponential(0.9)), lambda o: ExponentialLR(o, 0.9 ** (1 / 100))),
    "staircase": (Schedule(Exponential(0.9, "1 epoch", True)), lambda o: StepLR(o, 100, 0.9)),
    "step": (Schedule(Step(0.1, "30%")), lambda o: StepLR(o, 300, 0.1)),
    "multistep": (Schedule(MultiStep(0.1, ["50%", "75%"])), lambda o: MultiStepLR(o, [500, 750], 0.1)),
    "multistep, twice at once": (
        Schedule(MultiStep(0.1, [750, "50%", 500, "25%", 500])),
        lambda o: MultiStepLR(o, [750, 500, 500, 250, 500], 0.1),
    ),
    "warmup, constant": (Schedule(Constant(), WARMUP), rise),
    "warmup, cosine": (
        Schedule(Cosine(), "5%"),
        chain((WARMUP, rise), (STEPS, lambda o: CosineAnnealingLR(o, STEPS - WARMUP))),
    ),
    "warmup, linear": (
        Schedule(Linear(), WARMUP),
        chain((WARMUP, rise), (STEPS, lambda o: LinearLR(o, 1.0, 0.0, STEPS - WARMUP))),
    ),
    "warmup, exponential": (
        Schedule(Exponential(0.99, 1), WARMUP),
        chain((WARMUP, rise), (STEPS, lambda o: ExponentialLR(o, 0.99))),
    ),
    "warmup, milestones on the run's clock": (
        Schedule(MultiStep(0.1, [500, 750]), WARMUP),
        chain((WARMUP, rise), (STEPS, lambda o: MultiStepLR(o, [500 - WARMUP, 750 - WARMUP], 0.1))),
    ),
    "warmup, stable, cooldown": (
        Schedule(Constant(), WARMUP, cooldown="20%", floor=0.05),
        chain((WARMUP, rise), (750, lambda o: ConstantLR(o, 1.0)), (200, lambda o: LinearLR(o, 1.0, 0.05, 200))),
    ),
    "warm restarts": (Schedule(WarmRestarts("25%")), lambda o: CosineAnnealingWarmRestarts(o, 250)),
    "triangular": (
        Schedule(Cyclical("20%", 0.1)),
        lambda o: CyclicLR(o, 0.1, 1.0, 100, cycle_momentum=False),
    ),
    "triangular, up and down at their own pace": (
        Schedule(Cyclical(150, 0.2, "20%")),
        lambda o: CyclicLR(o, 0.2, 1.0, 30, 120, cycle_momentum=False),
    ),
    "triangular2": (
        Schedule(Cyclical("20%", 0.1, gamma=0.5)),
        lambda o: CyclicLR(o, 0.1, 1.0, 100, mode="triangular2", cycle_momentum=False),
    ),
    # torch's run of n steps ends at step n - 1, lrflow's at n.
    "one cycle": (Schedule(OneCycle()), lambda o: OneCycleLR(o, 1.0, STEPS + 1, pct_start=301 / (STEPS + 1))),
    "one cycle of straight lines": (
        Schedule(OneCycle("40%", 0.1, 0.001, "linear")),
        lambda o: OneCycleLR(
            o,
            1.0,
            STEPS + 1,
            pct_start=401 / (STEPS + 1),
            anneal_strategy="linear",
            div_factor=10,
            final_div_factor=100,
        ),
    ),
    "constant warmup": (
        Schedule(Constant(), WARMUP, 0.25, warmup_shape="constant"),
        lambda o: ConstantLR(o, factor=0.25, total_iters=WARMUP),
    ),
    "exponential warmup": (
        Schedule(Constant(), WARMUP, 0.01, warmup_shape="exponential"),
        chain(
            (WARMUP, lambda o: LambdaLR(o, lambda t: 0.01 ** (1 - t / WARMUP))), (STEPS, lambda o: ConstantLR(o, 1.0))
        ),
    ),
    "warmup, stable, cosine cooldown": (
        Schedule(Constant(), WARMUP, cooldown="20%", floor=0.05, cooldown_shape="cosine"),
        chain((WARMUP, rise), (750, lambda o: ConstantLR(o, 1.0)), (200, lambda o: CosineAnnealingLR(o, 200, 0.05))),
    ),
    "warmup, stable, power cooldown": (
        Schedule(Constant(), WARMUP, cooldown="20%", cooldown_shape="power"),
        chain((WARMUP, rise), (750, lambda o: ConstantLR(o, 1.0)), (200, lambda o: PolynomialLR(o, 200, 1.2))),
    ),
    "warmup from 0, cosine": (
        Schedule(Cosine(), WARMUP, warmup_start=0),
        huggingface(lambda p: 0.5 * (1.0 + math.cos(math.pi * p))),
    ),
    "warmup from 0, linear": (Schedule(Linear(), WARMUP, warmup_start=0), huggingface(lambda p: 1 - p)),
    "warmup from 0, cosine to a floor": (
        Schedule(Cosine(), WARMUP, warmup_start=0, floor=0.1),
        huggingface(lambda p: 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * p))),
    ),
}


@pytest.mark.parametrize(("schedule", "make"), CASES.values(), ids=CASES.keys())
def test_every_step_is_torchs(
    schedule: Schedule, make: Make, torch_multipliers: Callable[[Make, int], np.ndarray]
) -> None:
    # torch multiplies its last LR where lrflow computes each anew, so the last digits drift apart in a long run.
    np.testing.assert_allclose(schedule(np.arange(STEPS), RUN), torch_multipliers(make, STEPS), rtol=1e-9, atol=1e-12)


def test_restarts_that_are_longer_and_longer_are_torchs(
    torch_multipliers: Callable[[Make, int], np.ndarray],
) -> None:
    theirs = torch_multipliers(lambda o: CosineAnnealingWarmRestarts(o, 40, 4, 0.1), 840)  # 40, 160 and 640 steps
    ours = Schedule(WarmRestarts(40, 4), floor=0.1)(np.arange(840), Horizon(840))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_exp_range_is_torchs_with_its_first_peak_at_one(
    torch_multipliers: Callable[[Make, int], np.ndarray],
) -> None:
    gamma, up, low = 0.999, 100, 0.1
    highest = low + (1 - low) / gamma**up  # torch never gets there: its peaks shrink from the first step on

    def make(optimizer: Optimizer) -> LRScheduler:
        return CyclicLR(optimizer, low, highest, up, mode="exp_range", gamma=gamma, cycle_momentum=False)

    ours = Schedule(Cyclical(2 * up, low, gamma=gamma ** (2 * up), smooth=True))(np.arange(STEPS), RUN)
    np.testing.assert_allclose(ours[up:], torch_multipliers(make, STEPS)[up:], rtol=1e-9)
    np.testing.assert_allclose(ours[: up + 1], np.linspace(low, 1, up + 1), rtol=1e-9)


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        (Linear(), lambda o: LinearLR(o, 1.0, 0.0, STEPS)),
        (Polynomial(2.0), lambda o: PolynomialLR(o, STEPS, 2.0)),
    ],
    ids=["linear", "polynomial"],
)
def test_past_the_end_torchs_last_value_is_held(
    shape: Shape, make: Make, torch_multipliers: Callable[[Make, int], np.ndarray]
) -> None:
    beyond = torch_multipliers(make, STEPS + 50)
    np.testing.assert_allclose(Schedule(shape)(np.arange(STEPS + 50), RUN), beyond, rtol=1e-9, atol=1e-12)

"""Forms of schedules that published training code has, each against its rule, over every step of a run.

The rules are written out here in the terms of the code that they were read in, and in no terms of lrflow's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, ExponentialLR, LambdaLR, LinearLR, StepLR
from transformers import TrainingArguments, get_cosine_schedule_with_warmup

from lrflow.errors import ConfigError
from lrflow.schedules import (
    Constant,
    Cosine,
    Exponential,
    Horizon,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    Piece,
    Piecewise,
    Power,
    Product,
    Schedule,
    Shape,
    Step,
    WarmRestarts,
)

STEPS, EPOCH, WARMUP = 1000, 50, 120
AFTER = 2366  # samples until a power schedule falls
RUN = Horizon(STEPS, EPOCH, 8)

Rule = Callable[[int], float]


def half_cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def timm(step: int, total: int = STEPS, warmup_lr: float = 1e-3, lr_min: float = 0.01, prefix: bool = False) -> float:
    """timm's CosineLRScheduler; the curve runs from step 0 unless warmup_prefix, and the warmup rises to the LR."""
    if step < WARMUP:
        return warmup_lr + step * (1 - warmup_lr) / WARMUP
    if prefix:
        step -= WARMUP
    return lr_min + 0.5 * (1 - lr_min) * (1 + math.cos(math.pi * step / total)) if step < total else lr_min


def bert(step: int) -> float:
    """BERT's optimization.py: a polynomial decay of power 1 from step 0, replaced during the warmup."""
    decayed = (1 - 0.0) * (1 - min(step, STEPS) / STEPS) ** 1.0 + 0.0
    in_warmup = float(step < WARMUP)
    return (1 - in_warmup) * decayed + in_warmup * step / WARMUP


def transformer_xl(step: int) -> float:
    """Transformer-XL's train.py: a linear warmup, then CosineAnnealingLR stepped to the step of the run."""
    return step / WARMUP if step < WARMUP else 0.001 + (1 - 0.001) * half_cosine(step / STEPS)


def detectron2_factor(curve: Rule, factor: float = 0.001, method: str = "linear") -> Rule:
    """Detectron2's WarmupCosineLR and WarmupMultiStepLR: a warmup factor times the curve."""

    def rule(step: int) -> float:
        alpha = step / WARMUP
        warmup = 1.0 if step >= WARMUP else factor if method == "constant" else factor * (1 - alpha) + alpha
        return warmup * curve(step)

    return rule


def detectron2_meet(curve: Rule, factor: float = 0.001) -> Rule:
    """Detectron2's WarmupParamScheduler: a straight line to the value of the curve where the warmup ends."""

    def rule(step: int) -> float:
        where = step / WARMUP
        return curve(WARMUP) * where + factor * curve(0) * (1 - where) if step < WARMUP else curve(step)

    return rule


def yolo(step: int) -> float:
    """YOLOv5's train.py: per epoch lf(epoch); in the warmup, per batch, np.interp(ni, [0, nw], [0, lf(epoch)])."""
    epochs = STEPS // EPOCH
    lf = half_cosine((step // EPOCH) / epochs) * (1 - 0.1) + 0.1
    return float(np.interp(step, [0, WARMUP], [0.0, lf])) if step <= WARMUP else lf


def dino(step: int) -> float:
    """DINO's cosine_scheduler: np.linspace to the peak, then a cosine whose first step is the peak again."""
    warmup = np.linspace(1e-4, 1.0, WARMUP)
    iters = np.arange(STEPS - WARMUP)
    decay = 0.02 + 0.5 * (1.0 - 0.02) * (1 + np.cos(np.pi * iters / len(iters)))
    return float(np.concatenate((warmup, decay))[step])


def from_one(step: int) -> float:
    """The nanoGPT speedruns: (it + 1) / warmup_iters, then constant, then linear over the last warmdown_iters."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 1.0 if step < STEPS - 200 else (STEPS - step) / 200


def noam(step: int) -> float:
    """Vaswani et al., whose step_num is 1 at the first step: min(step_num^-0.5, step_num warmup^-1.5), over its top."""
    number = step + 1
    return min(number**-0.5, number * WARMUP**-1.5) / WARMUP**-0.5


def olmo_cosine(step: int) -> float:
    """OLMo-core's CosWithWarmup: its steps are numbered from 1, alpha_f is the floor, t_max the end of the cosine."""
    number, t_max, low = step + 1, 800, 0.1
    if number < WARMUP:
        return 0.0 + (1.0 - 0.0) * min(number, WARMUP) / WARMUP
    if number >= t_max:
        return low
    return low + (1 - low) * (1 + math.cos(math.pi * (number - WARMUP) / (t_max - WARMUP))) / 2


def mosaic_of_cooldowns(step: int) -> float:
    """WSD-S (Wen et al., 2024): constant, then 1 / LR falls linearly to a tenth, at the end of each period."""
    ends, decay, low = (400, 700, 1000), 100, 0.1
    end = next(end for end in ends if step < end)
    if step < end - decay:
        return 1.0
    share = (step - (end - decay)) / decay
    return 1 / (share / low + (1 - share) / 1.0)


def infinite(step: int) -> float:
    """Ibrahim et al., 2024: warmup, cosine cooldown to the constant LR, constant, exponential annealing to the end."""
    cooled, annealed, constant, low = 400, 800, 0.3, 0.03
    if step <= WARMUP:
        return step / WARMUP
    if step <= cooled:
        return constant + (1 - constant) / 2 * (math.cos(math.pi * (step - WARMUP) / (cooled - WARMUP)) + 1)
    if step <= annealed:
        return constant
    return constant * (low / constant) ** ((step - annealed) / (STEPS - annealed))


def power(step: int) -> float:
    """Shen et al., 2024: min(lr, B a n^b) after n tokens; then a linear decay over the last tenth."""
    a, b, tokens = 4.6, -0.51, 8
    lr_max = a * tokens * AFTER**b

    def of_tokens(n: float) -> float:
        return min(lr_max, a * tokens * n**b) if n else lr_max

    if step < 60:
        return of_tokens(60 * tokens) * (step + 1) / 61 / lr_max
    if step < 900:
        return of_tokens(step * tokens) / lr_max
    return of_tokens(900 * tokens) * (STEPS - step) / 100 / lr_max


MEETING: dict[str, Any] = {"warmup": WARMUP, "shape_from": "start"}
OVERRIDING: dict[str, Any] = {**MEETING, "warmup_mode": "override"}
FACTOR: dict[str, Any] = {**MEETING, "warmup_mode": "multiply"}
BLENDING: dict[str, Any] = {**MEETING, "warmup_mode": "blend"}
WSD_S = [
    piece
    for stable in (300, 200, 200)
    for piece in (
        Piece(Constant(), stable),
        Piece(InverseTime(gamma=9, power=1, every=100), 100),
    )
]

RULES: dict[str, tuple[Schedule, Rule]] = {
    "timm": (Schedule(Cosine(), warmup_start=1e-3, floor=0.01, **OVERRIDING), timm),
    "timm, warmup_prefix": (
        Schedule(Cosine(), WARMUP, 1e-3, floor=0.01, shape_length=STEPS),
        lambda t: timm(t, prefix=True),
    ),
    "timm, longer than its epochs": (
        Schedule(Cosine(), warmup_start=1e-3, floor=0.01, shape_length=700, **OVERRIDING),
        lambda t: timm(t, 700),
    ),
    "bert": (Schedule(Linear(), warmup_start=0, **OVERRIDING), bert),
    "transformer-xl": (Schedule(Cosine(), warmup_start=0, floor=0.001, **OVERRIDING), transformer_xl),
    "detectron2, cosine times warmup": (
        Schedule(Cosine(), warmup_start=0.001, **FACTOR),
        detectron2_factor(lambda t: half_cosine(t / STEPS)),
    ),
    "detectron2, constant factor": (
        Schedule(Cosine(), warmup_start=0.1, warmup_shape="constant", **FACTOR),
        detectron2_factor(lambda t: half_cosine(t / STEPS), 0.1, "constant"),
    ),
    "detectron2, milestones times warmup": (
        Schedule(MultiStep(0.1, [60, 700]), warmup_start=0.001, **FACTOR),
        detectron2_factor(lambda t: 0.1 ** ((t >= 60) + (t >= 700))),
    ),
    "detectron2, warmup to the curve": (
        Schedule(Cosine(), warmup_start=0.001, **MEETING),
        detectron2_meet(lambda t: half_cosine(t / STEPS)),
    ),
    "yolo": (Schedule(Cosine(), warmup_start=0, floor=0.1, hold=EPOCH, hold_part="shape", **FACTOR), yolo),
    "ultralytics, biases from 10 times lr0": (  # np.interp(ni, [0, nw], [warmup_bias_lr, lr0 * lf(epoch)])
        Schedule(Linear(), warmup_start=10, floor=0.1, hold=EPOCH, hold_part="shape", **BLENDING),
        lambda t: np.interp(t, [0, WARMUP], [10, 1 - 0.9 * (t // EPOCH * EPOCH) / STEPS]),
    ),
    "keras, CosineDecay from above its warmup_target": (
        Schedule(Cosine(), WARMUP, 2.5, floor=0.1),
        lambda t: 2.5 - 1.5 * t / WARMUP if t < WARMUP else 0.1 + 0.9 * half_cosine((t - WARMUP) / (STEPS - WARMUP)),
    ),
    "dino": (Schedule(Cosine(), WARMUP, 1e-4, floor=0.02, warmup_ends_at="last_step"), dino),
    "nanogpt speedrun": (Schedule(Constant(), WARMUP, cooldown=200, warmup_ends_at="last_step"), from_one),
    "noam from step 1": (Schedule(InverseSqrt(), WARMUP, 0, count_from=1), noam),
    "olmo, from step 1": (Schedule(Cosine(), WARMUP, 0, floor=0.1, count_from=1, shape_length=680), olmo_cosine),
    "wsd-s": (Schedule(Piecewise(WSD_S)), mosaic_of_cooldowns),
    "infinite": (
        Schedule(
            Piecewise([Piece(Cosine(), 400 - WARMUP, 1, 0.3), Piece(Constant(), None, 0.3)]),
            WARMUP,
            0,
            cooldown=200,
            floor=0.03,
            cooldown_shape="exponential",
        ),
        infinite,
    ),
    "power": (
        Schedule(Power(f"{AFTER} samples", 0.51), 60, cooldown="10%"),
        power,
    ),
    "a curve that the run cuts off": (
        Schedule(Cosine(), WARMUP, 0, floor=0.1, shape_length=90_000),
        lambda t: t / WARMUP if t < WARMUP else 0.1 + 0.9 * half_cosine((t - WARMUP) / 90_000),
    ),
    "milestones after the end of a short run": (
        Schedule(MultiStep(0.1, [60_000, 80_000]), WARMUP, 0, shape_length=90_000),
        lambda t: min(t / WARMUP, 1),
    ),
    "pieces with their own clocks": (
        Schedule(
            Piecewise([
                Piece(Step(0.5, "2 epochs"), "40%", clock="piece"),
                Piece(MultiStep(0.1, ["25%", 300]), None, 0.8, clock="piece"),
            ])
        ),
        lambda t: 0.5 ** (t // 100) if t < 400 else 0.8 * 0.1 ** ((t >= 550) + (t >= 700)),
    ),
    "pieces below the peak": (
        Schedule(Piecewise([Piece(Constant(), 300, 0.25), Piece(Linear(), None, 0.5, 0.1)])),
        lambda t: 0.25 if t < 300 else 0.1 + 0.4 * (1 - (t - 300) / 700),
    ),
    "a product of a shape and a schedule": (
        Schedule(Product([Step(0.5, 250), Schedule(Cosine(), WARMUP, 0)])),
        lambda t: 0.5 ** (t // 250) * (t / WARMUP if t < WARMUP else half_cosine((t - WARMUP) / (STEPS - WARMUP))),
    ),
    "a warmup beside a held shape": (
        Schedule(Linear(), 70, 0, hold=EPOCH, hold_part="shape"),
        lambda t: t / 70 if t < 70 else 1 - (max(t // EPOCH * EPOCH, 70) - 70) / (STEPS - 70),
    ),
    "holds counted from 1": (
        Schedule(Linear(), hold=EPOCH, count_from=1),
        lambda t: 1 - min(t // EPOCH + 1, 20) / 20,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("schedule", "rule"), RULES.values(), ids=RULES.keys())
def test_every_step_is_the_rules(schedule: Schedule, rule: Rule) -> None:
    expected = np.array([rule(step) for step in range(STEPS)])
    np.testing.assert_allclose(schedule(np.arange(STEPS), RUN), expected, rtol=1e-12, atol=1e-15)
    assert schedule.check(RUN) == []


CHAINED: dict[str, tuple[Schedule, Callable[[Any], Any]]] = {
    "linear warmup and exponential": (
        Schedule(Exponential(0.99, 1), WARMUP, 0.1, shape_from="start", warmup_mode="multiply"),
        lambda o: ChainedScheduler([LinearLR(o, 0.1, 1.0, WARMUP), ExponentialLR(o, 0.99)]),
    ),
    "cosine and steps": (
        Schedule(Product([Cosine(), Step(0.3, 300)])),
        lambda o: LambdaLR(o, lambda t: half_cosine(t / STEPS) * 0.3 ** (t // 300)),
    ),
    "exponential and steps": (
        Schedule(Product([Exponential(0.999, 1), Step(0.3, 300)])),
        lambda o: ChainedScheduler([ExponentialLR(o, 0.999), StepLR(o, 300, 0.3)]),
    ),
    "restarts under an envelope": (
        Schedule(Product([WarmRestarts(250), Linear()])),
        lambda o: LambdaLR(o, lambda t: half_cosine(t % 250 / 250) * (1 - t / STEPS)),
    ),
    "transformers' cosine with a ratio": (
        Schedule(Cosine(), "12.3%", 0, rounding="up"),
        lambda o: get_cosine_schedule_with_warmup(
            o, TrainingArguments(output_dir="unused", warmup_steps=0.123).get_warmup_steps(STEPS + 1), STEPS + 1
        ),
    ),
}


@pytest.mark.parametrize(("schedule", "make"), CHAINED.values(), ids=CHAINED.keys())
def test_every_step_is_torchs_and_transformers(
    schedule: Schedule, make: Callable[[Any], Any], torch_multipliers: Callable[..., np.ndarray]
) -> None:
    run = Horizon(STEPS + 1) if schedule.rounding == "up" else RUN  # so that a share is no whole number of steps
    np.testing.assert_allclose(
        schedule(np.arange(STEPS), run), torch_multipliers(make, STEPS), rtol=1e-12 if run != RUN else 1e-11, atol=1e-15
    )


@pytest.mark.parametrize(("rounding", "steps"), [("nearest", 3), ("down", 2), ("up", 3)])
def test_percents_round_as_asked(rounding: str, steps: int) -> None:
    schedule = Schedule(Step(0.1, "2.5%"), "2.5%", 0, cooldown="2.5%", rounding=rounding)
    run = Horizon(101)  # 2.525 steps
    assert schedule.phase(run).start == steps
    assert schedule.phase(run).stop == 101 - steps
    assert schedule.jumps(run)[0] == max(2 * steps, 4) if rounding == "down" else 2 * steps
    assert run.rounding == "nearest"
    assert Schedule(Linear(), "2%").phase(run).start == 2


def test_a_percent_that_is_whole_is_never_rounded() -> None:
    run = Horizon(1000)
    starts = {
        Schedule(Linear(), f"{share}%", rounding=way).phase(run).start for share in (29,) for way in ("up", "down")
    }
    assert starts == {290}  # in binary floats 0.29 * 1000 may be 290.00000000000006


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "mode without a shape below it": (
        {"warmup_mode": "override"}, "schedule.warmup_mode", "needs a shape that runs below the warmup",
    ),
    "unknown mode": ({"warmup_mode": "multipy"}, "schedule.warmup_mode", "expected meet, override, multiply, blend"),
    "constant to its last step": (
        {"warmup": 5, "warmup_shape": "constant", "warmup_ends_at": "last_step"},
        "schedule.warmup_ends_at", "a constant warmup jumps at the step after it",
    ),
    "counted from 2": ({"count_from": 2}, "schedule.count_from", "expected 0 or 1, the number of the first step"),
    "counted from true": ({"count_from": True}, "schedule.count_from", "expected 0 or 1, the number of the first step"),
    "unknown clock": ({"shape_from": "warmup"}, "schedule.shape_from", "expected warmup_end, start"),
    "unknown rounding": ({"rounding": "ceil"}, "schedule.rounding", "expected nearest, up, down"),
    "unknown part": ({"hold_part": "warmup"}, "schedule.hold_part", "expected all, shape"),
}  # fmt: skip


def test_wrong_forms_are_reported() -> None:
    found = {}
    for name, (arguments, _, _) in WRONG.items():
        with pytest.raises(ConfigError) as caught:
            Schedule(Cosine(), **arguments)
        found[name] = [(problem.key, problem.message) for problem in caught.value.problems]
    assert found == {name: [(key, message)] for name, (_, key, message) in WRONG.items()}


def test_forms_that_do_not_fit_the_run() -> None:
    def problems(shape: Shape, **arguments: Any) -> list[tuple[str, str]]:
        return [(found.key, found.message) for found in Schedule(shape, **arguments).check(RUN)]

    late = "is step 50, and the warmup ends at step 120: the peak would never be reached"
    assert problems(Cosine(), shape_length="0.01%") == [("schedule.shape_length", "is shorter than one step")]
    assert problems(Power(50), warmup=WARMUP) == [("schedule.shape.after", late)]
    assert problems(Product([Cosine(), MultiStep(0.1, [2000])])) == [
        ("schedule.shape.of[1].milestones[0]", "is step 2000, but the run has 1000")
    ]
    # Inside a run that is cut off, a cooldown starts from where the shape is.
    assert problems(Cosine(), shape_length=5000, cooldown=100) == []
    assert [key for key, _ in problems(Cosine(), shape_length=500, cooldown=100)] == ["schedule.cooldown"]
    rest = "ends at step 500 at an LR of 0, where the rest of the run would stay"
    assert problems(Cosine(), shape_length=500) == [("schedule.shape_length", rest)]
    assert problems(Cosine(), shape_length=500, floor=0.1) == []


def test_torch_raises_above_the_curve_where_the_override_drops(optimizer: Callable[..., Any]) -> None:
    # torch has no override: a warmup in front of a cosine that runs from step 0 has to be written by hand.
    sgd = optimizer(1.0)
    cosine = CosineAnnealingLR(sgd, STEPS)
    for _ in range(WARMUP):
        sgd.step()
        cosine.step()
    after = float(sgd.param_groups[0]["lr"])
    ours = Schedule(Cosine(), warmup_start=0, **OVERRIDING)
    assert ours(WARMUP - 1, RUN) == (WARMUP - 1) / WARMUP > after
    np.testing.assert_allclose(ours(WARMUP, RUN), after, rtol=1e-12)
    assert ours.jumps(RUN) == (WARMUP,)
    assert torch.is_tensor(sgd.param_groups[0]["params"][0])


def test_only_an_lr_may_start_above_its_peak() -> None:
    above = Schedule(Constant(), 10, 2.0)
    with pytest.raises(ConfigError, match=r"of\[1\].warmup_start: expected a number from 0 to 1|no factor is above 1"):
        Product([Cosine(), above])
    with pytest.raises(ConfigError, match="high is the highest value"):
        Schedule(Cosine(), also={"momentum": {"warmup": 10, "warmup_start": 2.0}})
    with pytest.raises(ConfigError, match="expected a number from 0"):
        Schedule(Cosine(), 10, -0.1)
    between = Schedule(Linear(), warmup_start=0.99, **MEETING).check(RUN)
    assert [found.key for found in between] == ["schedule.warmup_start"]

"""Schedules that torch does not have, each against its published formula, over every step of a run.

The formulas are written out here as their papers and libraries print them, in the terms of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from lrflow.schedules import (
    Constant,
    Cosine,
    Horizon,
    InverseSqrt,
    InverseTime,
    Polynomial,
    Rex,
    Schedule,
    Tanh,
    WarmRestarts,
)

STEPS = 1000
RUN = Horizon(STEPS, 100)
WARMUP, DECAY = 50, 200

Formula = Callable[[int], float]


def caffe_inv(step: int, gamma: float = 1e-4, power: float = 0.75) -> float:
    """Caffe: base_lr * (1 + gamma * iter) ^ (- power)."""
    return math.pow(1 + gamma * step, -power)


def timm_cosine(step: int, k: float, low: float = 0.0) -> float:
    """The cosine of timm, with k-decay: lr_min + 0.5 (lr_max - lr_min) (1 + cos(pi t^k / T^k))."""
    return low + 0.5 * (1 - low) * (1 + math.cos(math.pi * step**k / STEPS**k))


def timm_poly(step: int, power: float, k: float, low: float = 0.0) -> float:
    """The polynomial of timm, with k-decay: lr_min + (lr_max - lr_min) (1 - t^k / T^k)^power."""
    return low + (1 - low) * (1 - step**k / STEPS**k) ** power


def timm_restarts(step: int, cycle: int, decay: float) -> float:
    """The cosine of timm with cycles: lr_max * cycle_decay^i, 0.5 (1 + cos(pi t_curr / t_i))."""
    i = step // cycle
    return decay**i * 0.5 * (1 + math.cos(math.pi * (step - cycle * i) / cycle))


def hyperbolic(step: int, lower: float, upper: float) -> float:
    """HTD: 1/2 (1 - tanh(L + (U - L) t / T))."""
    return 0.5 * (1 - math.tanh(lower + (upper - lower) * step / STEPS))


def transformers_inverse_sqrt(step: int, timescale: int) -> float:
    """The inverse square root of transformers: linear from 0, then shifted so that it meets 1 at the warmup's end."""
    if step < WARMUP:
        return step / WARMUP
    shift = timescale - WARMUP
    return 1 / math.sqrt((step + shift) / timescale)


def noam(step: int, width: int = 512) -> float:
    """Vaswani et al.: d^-0.5 min(t^-0.5, t w^-1.5)."""
    return width**-0.5 * min(step**-0.5 if step else math.inf, step * WARMUP**-1.5)


def rex(step: int) -> float:
    """Chen et al.: eta_0 (1 - t/T) / (1/2 + 1/2 (1 - t/T))."""
    left = 1 - step / STEPS
    return left / (0.5 + 0.5 * left)


def transformers_wsd(step: int, warmup: str, decay: str, low: float = 0.0) -> float:
    """Warmup-stable-decay of transformers: warmup and decay are linear, cosine or 1-sqrt; low is min_lr_ratio."""
    curves = {
        "linear": lambda p: p,
        "cosine": lambda p: 0.5 * (1 - math.cos(math.pi * p)),
        "1-sqrt": lambda p: 1 - math.sqrt(1 - p),
    }
    if step < WARMUP:
        return low + (1 - low) * curves[warmup](step / WARMUP)
    if step < STEPS - DECAY:
        return 1.0
    return low + (1 - low) * curves[decay](1 - (step - (STEPS - DECAY)) / DECAY)


def haegele(step: int) -> float:
    """Haegele et al., cooldown 1-square: 1 - ((n - (N - N_decay)) / N_decay)^2."""
    return 1.0 if step < STEPS - DECAY else 1 - ((step - (STEPS - DECAY)) / DECAY) ** 2


def minicpm(step: int, half_life: int) -> float:
    """MiniCPM: 0.5^((s - S) / T) after S steps."""
    return 1.0 if step < STEPS - DECAY else 0.5 ** ((step - (STEPS - DECAY)) / half_life)


def nanogpt(step: int) -> float:
    """The power cooldown of the nanoGPT speedruns: min(1, c (T - t)^1.2), c so that it begins 200 steps before T."""
    return min(1.0, DECAY**-1.2 * (STEPS - step) ** 1.2)


def fastai_flat_cos(step: int, flat: float = 0.75) -> float:
    """fit_flat_cos: lr up to pct_start, then SchedCos: start + (1 + cos(pi (1 - pos))) (end - start) / 2."""
    position = step / STEPS
    if position < flat:
        return 1.0
    return 1 + (1 + math.cos(math.pi * (1 - (position - flat) / (1 - flat)))) * (0 - 1) / 2


def wsd(decay: str, floor: float = 0.0, warmup: str = "linear") -> Schedule:
    """A constant LR between a warmup from the floor and a cooldown of 200 steps."""
    return Schedule(Constant(), WARMUP, floor, DECAY, floor, warmup_shape=warmup, cooldown_shape=decay)


CASES: dict[str, tuple[Schedule, Formula]] = {
    "inverse time": (Schedule(InverseTime(1e-4, 0.75, 1)), caffe_inv),
    "inverse time by epochs": (Schedule(InverseTime(1e-2, 0.75, "1 epoch")), caffe_inv),
    "cosine, k-decay": (Schedule(Cosine(k=3)), lambda t: timm_cosine(t, 3)),
    "cosine, k-decay below 1, to a floor": (Schedule(Cosine(k=0.7), floor=0.1), lambda t: timm_cosine(t, 0.7, 0.1)),
    "polynomial, k-decay": (Schedule(Polynomial(0.5, k=2)), lambda t: timm_poly(t, 0.5, 2)),
    "polynomial, k-decay, to a floor": (Schedule(Polynomial(2, 1.5), floor=0.01), lambda t: timm_poly(t, 2, 1.5, 0.01)),
    "warm restarts whose peaks decay": (Schedule(WarmRestarts(200, decay=0.7)), lambda t: timm_restarts(t, 200, 0.7)),
    "tanh of the paper": (Schedule(Tanh()), lambda t: hyperbolic(t, -6, 3)),
    "tanh of timm": (Schedule(Tanh(-7, 3)), lambda t: hyperbolic(t, -7, 3)),
    "tanh that starts late": (Schedule(Tanh(-1, 4)), lambda t: hyperbolic(t, -1, 4)),
    "inverse square root": (
        Schedule(InverseSqrt(), WARMUP, warmup_start=0),
        lambda t: transformers_inverse_sqrt(t, WARMUP),
    ),
    "inverse square root with a timescale": (
        Schedule(InverseSqrt("20%"), WARMUP, warmup_start=0),
        lambda t: transformers_inverse_sqrt(t, 200),
    ),
    "noam": (Schedule(InverseSqrt(), WARMUP, warmup_start=0), noam),
    "wsd, linear": (wsd("linear"), lambda t: transformers_wsd(t, "linear", "linear")),
    "wsd, cosine": (wsd("cosine", 0.1, "cosine"), lambda t: transformers_wsd(t, "cosine", "cosine", 0.1)),
    "wsd, 1-sqrt": (wsd("1-sqrt"), lambda t: transformers_wsd(t, "linear", "1-sqrt")),
    "wsd, 1-square": (Schedule(Constant(), cooldown=DECAY, cooldown_shape="1-square"), haegele),
    "wsd, exponential": (
        Schedule(Constant(), cooldown=DECAY, floor=0.5**4, cooldown_shape="exponential"),
        lambda t: minicpm(t, DECAY // 4),
    ),
    "power cooldown": (Schedule(Constant(), cooldown="20%", cooldown_shape="power"), nanogpt),
    "flat, then cosine": (Schedule(Constant(), cooldown="25%", cooldown_shape="cosine"), fastai_flat_cos),
    "rex": (Schedule(Rex()), rex),
}


@pytest.mark.parametrize(("schedule", "formula"), CASES.values(), ids=CASES.keys())
def test_every_step_is_the_papers(schedule: Schedule, formula: Formula) -> None:
    values = np.array([formula(step) for step in range(STEPS)])
    # The peak LR is the configured one: a formula with another highest value is divided by it.
    np.testing.assert_allclose(schedule(np.arange(STEPS), RUN), values / values.max(), rtol=1e-9, atol=1e-12)

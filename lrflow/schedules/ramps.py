"""The curves of warmups and cooldowns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lrflow.imports import np
from lrflow.schedules.curve import Shape
from lrflow.schedules.decays import Cosine, Linear, Polynomial
from lrflow.schedules.time import Floats, Phase


def _linear(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * done


def _cosine(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * 0.5 * (1.0 - np.cos(math.pi * done))


def _exponential(done: Floats, low: float, top: float) -> Floats:
    if low == 0.0:  # only if top is 0 too: the schedule raises otherwise
        return np.zeros_like(done)
    return np.clip(low * (top / low) ** done, np.minimum(low, top), np.maximum(low, top))


def _constant(done: Floats, low: float, top: float) -> Floats:
    return np.full_like(done, low)


WARMUPS: dict[str, Callable[[Floats, float, Any], Floats]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
    "constant": _constant,
}
"""By name: (elapsed shares of the warmup in [0, 1), multiplier at its start, at its end or ends) to multipliers."""

_FALLS: dict[str, Shape] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "1-sqrt": Polynomial(1.0, k=0.5),
    "1-square": Polynomial(1.0, k=2.0),
    "power": Polynomial(1.2),
}

COOLDOWNS = (*_FALLS, "exponential")
"""The names of the curves of a cooldown."""


def cooldown(name: str, step: Floats, phase: Phase, top: float, floor: float) -> Floats:
    """Return the multipliers at these steps of a cooldown, which falls from `top` to `floor`.

    1-sqrt is 1 - sqrt(p) (Haegele et al., 2024), 1-square is 1 - p^2, power is (1 - p)^1.2 (the nanoGPT speedruns,
    2026), exponential falls by equal factors (Hu et al., MiniCPM, 2024).

    Args:
        name: one of `COOLDOWNS`.
        step: steps inside the phase.
        phase: the steps of the cooldown.
        top: multiplier at its start.
        floor: multiplier at its end; above 0 for `exponential`.
    """
    if name == "exponential":
        return np.minimum(floor * (top / floor) ** (1.0 - phase.progress(step)), top)
    return floor + (top - floor) * _FALLS[name](step, phase)

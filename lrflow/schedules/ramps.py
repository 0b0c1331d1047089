"""Ramps: the curves on which a warmup rises and a cooldown falls."""

from __future__ import annotations

import math
from collections.abc import Callable

from lrflow.lazy import np
from lrflow.schedules.decays import Cosine, Linear, Polynomial
from lrflow.schedules.horizons import Floats, Phase
from lrflow.schedules.shape import Shape


def _linear(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * done


def _cosine(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * 0.5 * (1.0 - np.cos(math.pi * done))


def _exponential(done: Floats, low: float, top: float) -> Floats:
    if low == 0.0:  # only below a top of 0: the schedule refuses it elsewhere
        return np.zeros_like(done)
    return np.minimum(low * (top / low) ** done, top)


def _constant(done: Floats, low: float, top: float) -> Floats:
    return np.full_like(done, low)


WARMUPS: dict[str, Callable[[Floats, float, float], Floats]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
    "constant": _constant,
}
"""By name: the multipliers at shares of the warmup that are over, in [0, 1), on the way from `low` up to `top`."""

_LANDINGS: dict[str, Shape] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "1-sqrt": Polynomial(1.0, k=0.5),
    "1-square": Polynomial(1.0, k=2.0),
    "power": Polynomial(1.2),
}

COOLDOWNS = (*_LANDINGS, "exponential")
"""The names of the curves that a cooldown can follow."""


def cooldown(name: str, step: Floats, phase: Phase, top: float, floor: float) -> Floats:
    """The multipliers at these steps of a cooldown, on the way from `top` down to `floor`.

    1-sqrt is 1 - sqrt(p) (Haegele et al., 2024), 1-square 1 - p^2, power (1 - p)^1.2 (the nanoGPT speedruns, 2026),
    exponential falls by equal factors (Hu et al., MiniCPM, 2024).

    Args:
        name: one of `COOLDOWNS`.
        step: steps inside the phase.
        phase: the stretch that the cooldown fills.
        top: where it starts.
        floor: where it ends; above 0 for the exponential one.
    """
    if name == "exponential":
        return np.minimum(floor * (top / floor) ** (1.0 - phase.progress(step)), top)
    return floor + (top - floor) * _LANDINGS[name](step, phase)

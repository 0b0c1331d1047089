"""The schedule of a length and a peak with the lowest loss at its end by a law (Luo et al., 2025, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint, minimize

from lrflow.plan.values import peak_step
from lrflow.schedules import Constant, Cosine, Curve, Horizon, Linear, Schedule
from lrflow.schedules.time import Floats
from lrflow.tuning.loss_law import LossLaw, RateCurve

KNOTS = 24
"""Points of the free curve after the warmup, between which the LR is linear."""


@dataclass(frozen=True)
class Candidate:
    """A schedule and the loss that the law predicts at its end.

    Args:
        name: what it is.
        rates: LR of each step; [steps].
        end: the predicted loss after the last step.
        points: numbers of steps and fractions of the peak of the free curve; None: it is one of lrflow's schedules.
    """

    name: str
    rates: Floats
    end: float
    points: tuple[tuple[int, float], ...] | None = None


def known_schedules(warmup: int) -> Mapping[str, Curve]:
    """Return the schedules that are compared, each with a warmup of this many steps."""
    found: dict[str, Curve] = {
        "linear": Schedule(Linear(), warmup=warmup),
        "cosine": Schedule(Cosine(), warmup=warmup),
        "constant_with_warmup": Schedule(Constant(), warmup=warmup),
    }
    for share in (10, 20, 40, 60, 80):
        for shape in ("1-sqrt", "linear"):
            name = f"wsd schedule.cooldown={share}% schedule.cooldown_shape={shape}"
            found[name] = Schedule(Constant(), warmup=warmup, cooldown=f"{share}%", cooldown_shape=shape)
    return found


def rank_schedules(law: LossLaw, rates: Floats, horizon: Horizon) -> list[Candidate]:
    """Return lrflow's schedules and the best curve that never rises, those with the lowest predicted end first.

    Args:
        law: fitted to runs.
        rates: LRs of the configured schedule, whose warmup and peak all candidates have; [steps].
        horizon: length of the run.
    """
    peak, steps = float(rates.max()), len(rates)
    warmup = peak_step(rates)
    last = np.array([steps])
    found = []
    for name, curve in known_schedules(warmup).items():
        if curve.check(horizon):
            continue
        own = peak * curve(np.arange(steps), horizon)
        found.append(Candidate(name, own, float(law.loss(RateCurve.of(own), last)[0])))
    found.sort(key=lambda one: one.end)
    return sorted([_free(law, rates[:warmup], found[0], peak), *found], key=lambda one: one.end)


def _free(law: LossLaw, before: Floats, start: Candidate, peak: float) -> Candidate:
    """Return the curve of falling points with the lowest end, found from the best of the known schedules."""
    steps, warmup = len(start.rates), len(before)
    at = np.unique(np.linspace(warmup, steps, min(KNOTS, steps - warmup) + 1).round().astype(int))
    places, last = np.arange(warmup, steps), np.array([steps])

    def rates_of(values: Floats) -> Floats:
        return np.concatenate([before, peak * np.maximum(np.interp(places, at, values), 0.0)])

    def end(values: Floats) -> float:
        return float(law.loss(RateCurve.of(rates_of(values)).merged(last), last)[0])

    first = np.minimum.accumulate(np.interp(at, places, start.rates[warmup:] / peak))
    falls = np.eye(len(at))[:-1] - np.eye(len(at))[1:]
    bounds = [(1.0, 1.0), *[(0.0, 1.0)] * (len(at) - 1)]
    found = minimize(
        end, first, method="SLSQP", bounds=bounds, constraints=LinearConstraint(falls, 0.0, np.inf),
        options={"maxiter": 200, "ftol": 1e-9},
    )  # fmt: skip
    values = np.minimum.accumulate(np.clip(found.x, 0.0, 1.0))
    if not np.isfinite(values).all() or end(values) > end(first):
        values = first
    values = np.maximum(values.round(4), 0.0)
    own = rates_of(values)
    points = tuple((int(step), float(value)) for step, value in zip(at, values, strict=True))
    return Candidate("free", own, float(law.loss(RateCurve.of(own), last)[0]), points)

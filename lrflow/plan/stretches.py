"""The parts of a schedule in steps, as far as it tells them: warmup, cooldown, floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrflow.schedules import Duration

if TYPE_CHECKING:
    from lrflow.plan.plan import Curve
    from lrflow.schedules import Horizon


@dataclass(frozen=True)
class Stretches:
    """Where a curve's parts begin and end.

    Args:
        warmup: steps before the peak.
        cooldown: steps of the last, straight stretch.
        floor: multiplier under which the curve never falls after the warmup.
        lands: whether the curve comes down to the floor exactly at the end of the run.
    """

    warmup: int
    cooldown: int
    floor: float
    lands: bool


def stretches(schedule: Curve, horizon: Horizon) -> Stretches:
    """The parts of `schedule` on a run of this length; a curve that tells nothing has no warmup and floor 0."""
    warmup = Duration.parse(getattr(schedule, "warmup", 0)).steps(horizon)
    cooldown = Duration.parse(getattr(schedule, "cooldown", 0)).steps(horizon)
    shape = getattr(schedule, "shape", None)
    lands = cooldown > 0 or bool(getattr(shape, "lands", False))
    return Stretches(warmup, cooldown, float(getattr(schedule, "floor", 0.0)), lands)

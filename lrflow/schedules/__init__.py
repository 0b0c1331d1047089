"""Learning-rate schedules: pure functions of (step, horizon) to a multiplier of the peak LR; numpy only.

A `Schedule` is a warmup, a `Shape` and a cooldown. Times are `Duration`s (`500`, `3 epochs`, `10%`), which only a
`Horizon` (how long the run is) turns into steps. A run that is resumed with another horizon follows a `Continued` one.

    >>> schedule = Schedule(Cosine(), warmup="5%")
    >>> schedule([0, 500, 9_999], Horizon(steps=10_000, steps_per_epoch=1_000))
"""

from lrflow.schedules.continuation import Continued
from lrflow.schedules.curve import Curve
from lrflow.schedules.durations import Duration, DurationLike
from lrflow.schedules.horizons import Horizon, Phase
from lrflow.schedules.schedule import Schedule
from lrflow.schedules.shapes import Constant, Cosine, Exponential, Linear, MultiStep, Polynomial, Shape, Step

__all__ = [
    "Constant",
    "Continued",
    "Cosine",
    "Curve",
    "Duration",
    "DurationLike",
    "Exponential",
    "Horizon",
    "Linear",
    "MultiStep",
    "Phase",
    "Polynomial",
    "Schedule",
    "Shape",
    "Step",
]

"""Learning-rate schedules: pure functions of (step, horizon) to a multiplier of the peak LR; numpy only.

A `Schedule` is a warmup, a `Shape` and a cooldown. Times are `Duration`s (`500`, `3 epochs`, `10%`), which only a
`Horizon` (how long the run is) turns into steps. A run that is resumed with another horizon follows a `Continued` one.

    >>> schedule = Schedule(Cosine(), warmup="5%")
    >>> schedule([0, 500, 9_999], Horizon(steps=10_000, steps_per_epoch=1_000))
"""

from lrflow.schedules.continuation import Continued
from lrflow.schedules.curve import Curve, ScheduledSetting
from lrflow.schedules.cycles import Cyclical, OneCycle, WarmRestarts
from lrflow.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    Polynomial,
    Rex,
    Tanh,
)
from lrflow.schedules.durations import Duration, DurationLike
from lrflow.schedules.function import Function
from lrflow.schedules.horizons import Horizon, Phase
from lrflow.schedules.pieces import Piece, Piecewise
from lrflow.schedules.schedule import Schedule
from lrflow.schedules.shape import Shape
from lrflow.schedules.stairs import MultiStep, Step
from lrflow.schedules.table import Tabulated
from lrflow.schedules.unfreezing import Unfreezing

Also = ScheduledSetting  # its first name, which stands in specs

__all__ = [
    "Also",
    "Constant",
    "Continued",
    "Cosine",
    "Curve",
    "Cyclical",
    "Duration",
    "DurationLike",
    "Exponential",
    "Function",
    "Horizon",
    "InverseSqrt",
    "InverseTime",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Phase",
    "Piece",
    "Piecewise",
    "Polynomial",
    "Rex",
    "Schedule",
    "ScheduledSetting",
    "Shape",
    "Step",
    "Tabulated",
    "Tanh",
    "Unfreezing",
    "WarmRestarts",
]

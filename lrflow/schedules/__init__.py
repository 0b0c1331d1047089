"""Learning-rate schedules: pure functions of (step, horizon) to a multiplier of the peak LR; numpy only.

A `Schedule` is a warmup, a `Shape` and a cooldown. Times are `Duration`s (`500`, `3 epochs`, `10%`), which only a
`Horizon` (how long the run is) turns into steps. A run that is resumed with another horizon follows a `Continued` one.

    >>> schedule = Schedule(Cosine(), warmup="5%")
    >>> schedule([0, 500, 9_999], Horizon(steps=10_000, steps_per_epoch=1_000))
"""

from typing import TYPE_CHECKING

from lrflow.imports import lazily
from lrflow.schedules.curve import Curve, ScheduledSetting, Shape
from lrflow.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    Polynomial,
    Power,
    Rex,
    Tanh,
)
from lrflow.schedules.drops import MultiStep, Step
from lrflow.schedules.schedule import Schedule
from lrflow.schedules.time import Duration, DurationLike, Horizon, Phase

if TYPE_CHECKING:
    from lrflow.schedules.batch_schedule import BatchScaled
    from lrflow.schedules.batches import BatchSteps
    from lrflow.schedules.cycles import Cyclical, OneCycle, WarmRestarts
    from lrflow.schedules.freezing import FrozenAfter, Unfreezing
    from lrflow.schedules.part import PartOfRun
    from lrflow.schedules.pieces import Function, Piece, Piecewise, Product
    from lrflow.schedules.tabulated import Tabulated
    from lrflow.schedules.wrappers import Continued, OfModule, OwnSteps

Also = ScheduledSetting  # specs that were saved before the class was renamed hold this name

__all__ = [
    "Also",
    "BatchScaled",
    "BatchSteps",
    "Constant",
    "Continued",
    "Cosine",
    "Curve",
    "Cyclical",
    "Duration",
    "DurationLike",
    "Exponential",
    "FrozenAfter",
    "Function",
    "Horizon",
    "InverseSqrt",
    "InverseTime",
    "Linear",
    "MultiStep",
    "OfModule",
    "OneCycle",
    "OwnSteps",
    "PartOfRun",
    "Phase",
    "Piece",
    "Piecewise",
    "Polynomial",
    "Power",
    "Product",
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

__getattr__ = lazily(__name__, {
    "Cyclical": "cycles", "OneCycle": "cycles", "WarmRestarts": "cycles",
    "Function": "pieces", "Piece": "pieces", "Piecewise": "pieces", "Product": "pieces",
    "PartOfRun": "part",
    "BatchScaled": "batch_schedule", "BatchSteps": "batches",
    "Tabulated": "tabulated",
    "FrozenAfter": "freezing", "Unfreezing": "freezing",
    "Continued": "wrappers", "OfModule": "wrappers", "OwnSteps": "wrappers",
})  # fmt: skip

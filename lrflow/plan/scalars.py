"""A number besides the LR that a plan moves over the run: one that the module reads, or a setting of its optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules import Continued, Curve, Horizon, Schedule
from lrflow.schedules._arguments import prefix_keys
from lrflow.schedules.part import PartOfRun
from lrflow.schedules.time import Floats

if TYPE_CHECKING:
    import numpy.typing as npt

COLUMN = "scalar"
"""Kind of the columns with the scalars of a plan: `scalar/clip_range`."""


@dataclass(frozen=True)
class PlanScalar:
    """A number that is scheduled over the run, between two values.

    Args:
        name: its name in the config.
        curve: from step to a fraction of the way from `low` to `high`.
        low: value where the curve is 0.
        high: value where the curve is 1.
        inverse: whether `low` and `high` are exchanged.
    """

    name: str
    curve: Curve
    low: float
    high: float
    inverse: bool = False

    def __call__(self, step: npt.ArrayLike, horizon: Horizon) -> Floats:
        """Return the values at `step`, float64 of the same shape; never outside [low, high]."""
        way = self.curve(step, horizon)
        if self.inverse:
            way = 1.0 - way
        return np.clip(self.low * (1.0 - way) + self.high * way, self.low, self.high)

    def check(self, horizon: Horizon) -> list[Problem]:
        """Return the problems of the durations of its curve; those of a resumed run are reported for the LR only."""
        curve = self.curve
        while isinstance(curve, Continued):
            horizon = horizon if curve.how == "rescale" else curve.before
            curve = curve.schedule
        if isinstance(curve, Schedule):
            return prefix_keys(self.key, curve.duration_problems(horizon))
        return curve.check(horizon, self.key) if isinstance(curve, PartOfRun) else []

    @property
    def key(self) -> str:
        """Its key in the config."""
        return f"scalars.{self.name}"

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ")

    @property
    def column(self) -> str:
        """Its column in plan.csv and in the metrics of a run."""
        return f"{COLUMN}/{self.name}"

    def ends(self, horizon: Horizon) -> tuple[float, float]:
        """Return the value at which it begins, and the other one between which it moves."""
        first = float(self(0, horizon))
        return (self.low, self.high) if abs(first - self.low) <= abs(first - self.high) else (self.high, self.low)


def values_of(scalars: Sequence[PlanScalar], step: npt.ArrayLike, horizon: Horizon) -> Floats:
    """Return the planned values of scalars at `step`.

    Returns:
        float64 [scalars] for a scalar, [n, scalars] for an array, columns in the order of the scalars.
    """
    steps = np.atleast_1d(step)
    values = np.empty((steps.size, len(scalars)), order="F")
    for column, scalar in enumerate(scalars):
        values[:, column] = scalar(steps, horizon)
    return values if np.ndim(step) else values[0]

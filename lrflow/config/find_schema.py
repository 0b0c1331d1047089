"""Schemas of the group `find`: the range test and the stability bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from lrflow.config import types as f
from lrflow.config.schema import Section
from lrflow.errors import ConfigError, Problem
from lrflow.metric import TRAIN_LOSS, Metric, is_validation
from lrflow.schedules import Duration, Horizon

FEWEST_READINGS = 40
"""Of a sweep of a range test: with fewer there is no curve to read."""


class RangeFind(Section):
    """Find the LR by a range test."""

    kind: Literal["range"]
    low: f.Positive = 1e-6
    """Peak LR at the first step of a sweep."""
    high: f.Positive = 10.0
    """Peak LR at its last step."""
    steps: f.Interval = Duration.parse(200)
    """Of a sweep; a duration."""
    sweeps: f.Count | None = None
    """Each with a model and an order of the data of its own; None: 5, or 2 where trial runs settle the answer."""
    monitor: f.Text = TRAIN_LOSS
    """The metric: train/loss, one of validation (val/...), or one that the module logs."""
    mode: f.Mode | None = None
    """Whether less of it is better, or more; None: as the metric has it elsewhere, or by its name."""
    every: f.Interval | None = None
    """How often it is read, and the LR rises; None: each step, 5 steps (val/...) or 1 epoch (others)."""
    check: f.Switch = False
    """Look at the configured LR before a run starts."""
    confirm: f.Switch = False
    """Settle the answer by trial runs under the run's own schedule, scaled to them."""
    confirm_runs: f.Count = 4
    """How many at most."""
    confirm_length: f.Interval = Duration.parse("100%")
    """Of each; a duration."""
    found: dict[str, Any] | None = None
    """Written by a run with optimizer.lr=auto: what was found, and how."""

    @property
    def metric(self) -> Metric:
        """What is monitored."""
        return Metric.parse(self.monitor, self.mode)

    @property
    def sweep_count(self) -> int:
        """How many sweeps are made."""
        return self.sweeps or (2 if self.confirm else 5)

    @property
    def reading_interval(self) -> Duration:
        """How often a sweep reads what it monitors: as `every` says, or as the metric comes."""
        if self.every is not None:
            return self.every
        if self.monitor == TRAIN_LOSS:
            return Duration(1, "steps")
        return Duration(5, "steps") if is_validation(self.monitor) else Duration(1, "epochs")

    @property
    def in_steps(self) -> bool:
        """Whether the length of a sweep and of its readings is known without that of an epoch or of the run."""
        return all(given.unit == "steps" for given in (self.steps, self.reading_interval))

    def sweep_length(self, horizon: Horizon) -> tuple[int, int]:
        """How many readings a sweep has, and how many optimizer steps each of them takes.

        Args:
            horizon: of the run, whose epochs and shares are counted.

        Raises:
            ConfigError: the readings are too few to be a curve, or their steps cannot be counted.
        """
        lengths, problems = [], []
        for key, given in (("find.every", self.reading_interval), ("find.steps", self.steps)):
            try:
                lengths.append(max(1, given.steps(horizon)))
            except ValueError as error:
                problems.append(Problem(key, str(error), str(given), "write a number of steps"))
        if problems:
            raise ConfigError(problems)
        every, steps = lengths
        if steps // every < FEWEST_READINGS:
            message = f"expected at least {FEWEST_READINGS} readings of {self.monitor}"
            message += f", one each {every} steps" if every > 1 else ""
            hint = f"find.steps={FEWEST_READINGS * every} or more"
            raise ConfigError([Problem("find.steps", message, str(self.steps), hint)])
        return steps // every, every


class StabilityFind(Section):
    """Find the highest stable LR by the sharpness of the loss."""

    kind: Literal["stability"]
    batches: f.Count = 8
    """Batches of training data on which the curvature is measured."""
    gradients: f.Count = 20
    """Batches that an optimizer which divides by statistics of its gradients sees first."""
    products: f.Count = 20
    """Hessian-vector products at most."""
    check: f.Switch = False
    """Look at the configured LR before a run starts."""


def _kind_of_find(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return f"<{kind}>"


Find = Annotated[
    Annotated[RangeFind, Tag("<range>")] | Annotated[StabilityFind, Tag("<stability>")], Discriminator(_kind_of_find)
]

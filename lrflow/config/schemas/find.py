"""Schemas of the group `find`: the range test, the stability bound, batch sizes and the warmup."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import Section
from lrflow.errors import ConfigError, Problem
from lrflow.metric import TRAIN_LOSS, Metric, is_validation
from lrflow.schedules import Duration, Horizon

FEWEST_READINGS = 40
"""Minimum number of readings per sweep of a range test, so that they form a curve."""


class RangeFind(Section):
    """Find the LR by a range test."""

    kind: Literal["range"]
    low: f.Positive = 1e-6
    """Peak LR at the first step of a sweep."""
    high: f.Positive = 10.0
    """Peak LR at its last step."""
    steps: f.Interval = Duration.parse(200)
    """Duration of a sweep."""
    sweeps: f.Count | None = None
    """Number of sweeps, each with its own model and order of the data; None: 5, or 2 if trial runs confirm the LR."""
    monitor: f.Text = TRAIN_LOSS
    """Metric: train/loss, one of validation (val/...), or one that the module logs."""
    mode: f.Mode | None = None
    """Whether a lower or a higher value is better; None: the mode set elsewhere for the metric, or guessed by name."""
    every: f.Interval | None = None
    """Interval between readings, at which the LR rises; None: 1 step, 5 steps (val/...) or 1 epoch (others)."""
    check: f.Switch = False
    """Check the configured LR before a run starts."""
    confirm: f.Switch = False
    """Confirm the LR by trial runs under the run's own schedule, scaled to their length."""
    confirm_runs: f.Count = 4
    """Maximum number of trial runs."""
    confirm_length: f.Interval = Duration.parse("100%")
    """Duration of a trial run."""
    found: dict[str, Any] | None = None
    """Result of the search, written by a run with optimizer.lr=auto."""

    @property
    def metric(self) -> Metric:
        """The monitored metric."""
        return Metric.parse(self.monitor, self.mode)

    @property
    def sweep_count(self) -> int:
        """Number of sweeps, with the default filled in."""
        return self.sweeps or (2 if self.confirm else 5)

    @property
    def reading_interval(self) -> Duration:
        """Interval between readings: `every`, or its default for the metric."""
        if self.every is not None:
            return self.every
        if self.monitor == TRAIN_LOSS:
            return Duration(1, "steps")
        return Duration(5, "steps") if is_validation(self.monitor) else Duration(1, "epochs")

    @property
    def in_steps(self) -> bool:
        """Whether the duration of a sweep and the interval between readings are both in steps."""
        return all(given.unit == "steps" for given in (self.steps, self.reading_interval))

    def sweep_length(self, horizon: Horizon) -> tuple[int, int]:
        """Return the number of readings per sweep and the number of optimizer steps per reading.

        Args:
            horizon: length of the run, which converts epochs and fractions to steps.

        Raises:
            ConfigError: the readings are fewer than `FEWEST_READINGS`, or a duration cannot be converted to steps.
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
    """Number of training batches on which the curvature is measured."""
    gradients: f.Count = 20
    """Number of batches from which adaptive optimizers first collect gradient statistics."""
    products: f.Count = 20
    """Maximum number of Hessian-vector products."""
    check: f.Switch = False
    """Check the configured LR before a run starts."""


class BatchSizeFind(Section):
    """Find the largest batch size that fits into memory, and the smallest that is as fast."""

    kind: Literal["batch_size"]
    min: f.Count = 8
    """First batch size; it doubles until memory runs out, or halves until a step fits."""
    max: f.Count | None = None
    """Largest batch size to try; None: all training examples."""
    margin: f.ShareBelowOne = 0.1
    """Share of the largest batch size that fits, which is left free."""
    steps: Annotated[int, f.whole(3)] = 15
    """Most optimizer steps per batch size, less if they are slow; the first third is not timed."""
    check: f.Switch = False
    """Measure before a run starts too, and compare its batch size with the result."""


class CriticalBatchFind(Section):
    """Find the batch beyond which more examples per step save few steps."""

    kind: Literal["critical_batch"]
    steps: f.Interval = Duration.parse("100%")
    """Length of the run that is made, under the run's own schedule scaled to it."""
    check: f.Switch = False
    """Measure before a run starts too, and compare its batch with the result."""


class WarmupFind(Section):
    """Find the shortest warmup with which an LR above the best one is stable."""

    kind: Literal["warmup"]
    steps: f.Interval = Duration.parse(500)
    """Length of the runs without a warmup, at most that of the run."""
    factors: Annotated[list[Annotated[float, f.number(1)]], Field(min_length=1)] = Field([1.0, 10.0])
    """Multiples of the lowest unstable LR that are trained with warmups."""
    warmups: Annotated[list[f.Interval], Field(min_length=1)] = Field(
        [Duration.parse("0.1%"), Duration.parse("1%"), Duration.parse("10%")]
    )
    """Lengths of the warmups, tried from the shortest on."""
    seeds: f.Count = 2
    """Models and orders of the data, with all of which a run has to be stable."""
    check: f.Switch = False
    """Search before a run starts too."""


Find = Annotated[
    Annotated[RangeFind, Tag("<range>")]
    | Annotated[StabilityFind, Tag("<stability>")]
    | Annotated[BatchSizeFind, Tag("<batch_size>")]
    | Annotated[CriticalBatchFind, Tag("<critical_batch>")]
    | Annotated[WarmupFind, Tag("<warmup>")],
    f.by("kind"),
]

"""Schemas of the group `average`: which weights are averaged, from when on, and whether the average is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, Tag

from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import NO_TIME, Section
from lrflow.config.schemas.scalars import OF_AVERAGE, Scalar
from lrflow.errors import ConfigError, Problem
from lrflow.plan.averaging import WIDEST, Averaging
from lrflow.schedules import Duration, Horizon
from lrflow.schedules._arguments import uncountable_hint
from lrflow.wording import counted

DECAY = 0.999
"""Decay of an exponential moving average, if neither decay nor memory is set."""

Width = Annotated[float, f.number(0, WIDEST, above=True)]


class NoAverage(Section):
    """No average: the weights that are trained are evaluated."""


class _Averaged(Section):
    evaluate: f.Switch = True
    """Validate, save as the best and test the average; false: only keep it in the checkpoints."""


class EMA(_Averaged):
    """Exponential moving average."""

    kind: Literal["ema"]
    decay: f.BelowOne | None = None
    """Share of the average that a step keeps; None: 0.999, or by `over`."""
    over: f.Interval | None = None
    """Mean memory of the average: decay = 1 - 1 / (its steps); None: by `decay`."""
    warmup: f.Switch = True
    """Let the decay be at most (1 + t) / (10 + t) after t steps."""
    start: f.Within = NO_TIME
    """Duration before the first weights enter."""

    def averaging(self, horizon: Horizon) -> Averaging:
        """Return what is averaged in a run of this length.

        Raises:
            ConfigError: a duration does not fit.
        """
        start = _steps(self.start, "start", horizon)
        _check_start(start, self.start, horizon)
        decay = DECAY if self.decay is None else self.decay
        if self.over is not None:
            steps = max(2 if self.over.unit == "fraction" else 0, _steps(self.over, "over", horizon))
            if steps < 2:
                message = f"is {steps} step{'s' * (steps != 1)}: an average of less than 2 steps is no average"
                raise ConfigError([Problem("average.over", message, str(self.over))])
            decay = 1 - 1 / steps
        return Averaging("ema", start + 1, 1, horizon.steps, self.evaluate, decay, self.warmup)


class SWA(_Averaged):
    """Mean of weights some time apart."""

    kind: Literal["swa"]
    start: f.Within = Duration.parse("75%")
    """Duration before the first weights enter."""
    every: f.Interval = Duration.parse("1 epoch")
    """Duration between weights that enter."""

    def averaging(self, horizon: Horizon) -> Averaging:
        """Return what is averaged in a run of this length.

        Raises:
            ConfigError: a duration does not fit.
        """
        start, every = _steps(self.start, "start", horizon), max(1, _steps(self.every, "every", horizon))
        _check_start(start, self.start, horizon)
        first = (start // every + 1) * every
        if first > horizon.steps:
            run = f"{horizon.steps:,}"
            message = (
                f"is {counted(every, 'step')}, and no multiple of it is after the start and within the run's {run}"
            )
            hint = "shorten average.every, or start earlier"
            raise ConfigError([Problem("average.every", message, str(self.every), hint)])
        return Averaging("uniform", first, every, horizon.steps, self.evaluate)


class Tail(_Averaged):
    """Mean of the weights after each of the last steps."""

    kind: Literal["tail"]
    last: f.Interval = Duration.parse("20%")
    """Steps at the end of the run whose weights enter."""

    def averaging(self, horizon: Horizon) -> Averaging:
        """Return what is averaged in a run of this length.

        Raises:
            ConfigError: the duration does not fit.
        """
        last = _steps(self.last, "last", horizon, Duration.steps_at_end)
        if not 0 < last <= horizon.steps:
            message = f"is {counted(last, 'step')}, but the run has {horizon.steps:,}"
            raise ConfigError([Problem("average.last", message, str(self.last), "from one step to the whole run")])
        return Averaging("uniform", horizon.steps - last + 1, 1, horizon.steps, self.evaluate)


class Power(_Averaged):
    """Moving averages whose memory grows with the run."""

    kind: Literal["power"]
    width: Width = 0.1
    """Width of the average that is evaluated, as a share of the run so far."""
    also: list[Width] = Field([0.05])
    """Widths of further averages, kept in the checkpoints."""

    def averaging(self, horizon: Horizon) -> Averaging:
        """Return what is averaged in a run of this length."""
        widths = tuple(dict.fromkeys([self.width, *self.also]))
        return Averaging("power", 1, 1, horizon.steps, self.evaluate, widths=widths)


def _steps(
    duration: Duration, key: str, horizon: Horizon, count: Callable[[Duration, Horizon], int] = Duration.steps
) -> int:
    try:
        return count(duration, horizon)
    except ValueError as error:
        raise ConfigError([Problem(f"average.{key}", str(error), str(duration), uncountable_hint(duration))]) from None


def _check_start(steps: int, start: Duration, horizon: Horizon) -> None:
    if steps >= horizon.steps:
        message = f"is {counted(steps, 'step')}, but the run has only {horizon.steps:,}: nothing would be averaged"
        raise ConfigError([Problem("average.start", message, str(start), "start earlier, or train longer")])


Average = Annotated[
    Annotated[NoAverage, Tag("<none>")]
    | Annotated[EMA, Tag("<ema>")]
    | Annotated[SWA, Tag("<swa>")]
    | Annotated[Tail, Tag("<tail>")]
    | Annotated[Power, Tag("<power>")],
    f.by("kind", "none"),
]


def averaging_of(average: Average, horizon: Horizon, scalars: Mapping[str, Scalar] | None = None) -> Averaging | None:
    """Return what is averaged in a run of this length; None: nothing.

    Args:
        average: content of the group.
        horizon: length of the run.
        scalars: those of the run, one of which may set the decay.

    Raises:
        ConfigError: a duration does not fit into the run.
    """
    if isinstance(average, NoAverage):
        return None
    moving = next((name for name, scalar in (scalars or {}).items() if OF_AVERAGE in scalar.targets), None)
    return replace(average.averaging(horizon), scalar=moving)


def check_average(average: Average, strategy: str, horizon: Horizon | None) -> list[Problem]:
    """Return a problem for each setting of an average that excludes another one or does not fit into the run.

    Args:
        average: content of the group.
        strategy: `trainer.strategy`.
        horizon: length of the run; None if unknown.
    """
    if isinstance(average, NoAverage):
        return []
    problems = []
    if isinstance(average, EMA) and average.decay is not None and average.over is not None:
        message = "average.decay sets the memory already"
        problems.append(Problem("average.over", message, str(average.over), "leave out one of the two"))
    if strategy.startswith(("fsdp", "deepspeed")):
        message = "shards the weights, but an average is one of whole weights"
        problems.append(Problem("trainer.strategy", message, strategy, "trainer.strategy=ddp"))
    if horizon is not None:
        try:
            averaging_of(average, horizon)
        except ConfigError as error:
            problems += error.problems
    elif isinstance(average, EMA | SWA) and average.start.unit == "fraction" and average.start.value >= 1:
        problems.append(Problem("average.start", "expected less than the whole run", str(average.start)))
    return problems

"""Reads the arguments of schedules and shapes, and collects every problem with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real

from lrflow.errors import ConfigError, Problem, UnknownProblem, did_you_mean
from lrflow.schedules.levels import AbsoluteLR
from lrflow.schedules.time import MOST_STEPS, Duration, DurationLike, Horizon


class Arguments:
    """Collects problems while a constructor reads its arguments; `finish` raises them together.

    Args:
        key: where the arguments stand in a config, `schedule` or `schedule.shape`.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.problems: list[Problem] = []

    def wrong(self, name: str, value: object, message: str, hint: str | None = None, where: str | None = None) -> None:
        """Add a problem with the argument `name`; `where` is the file and line that the value was read from."""
        self.problems.append(Problem(f"{self.key}.{name}", message, value, hint, where))

    def unknown(self, name: str, value: object, message: str, known: Iterable[str]) -> None:
        """Add a problem with the argument `name`, which is none of the `known` ones that can stand there."""
        self.problems.append(unknown_argument(f"{self.key}.{name}", value, message, known))

    def duration(self, name: str, value: DurationLike) -> Duration:
        """Return the argument as a duration; 0 steps if it cannot be parsed."""
        try:
            return Duration.parse(value)
        except ValueError as error:
            self.wrong(name, value, str(error))
            return Duration(0, "steps")

    def interval(self, name: str, value: DurationLike | None) -> Duration:
        """Return the argument as a duration; 0 steps for None and every other 0."""
        given = self.duration(name, 0 if value is None else value)
        return given if given.value else Duration(0, "steps")

    def number(self, name: str, value: float | str, low: float, high: float, *, open_low: bool = False) -> float:
        """Return the argument as a float in [low, high] ((low, high] with `open_low`), or NaN if it is out of range."""
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            number = float(value)
            if low <= number <= high and not (open_low and number == low):
                return number
        bounds = f"{'above' if open_low else 'from'} {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
        self.wrong(name, value, f"expected a number {bounds}")
        return math.nan

    def share(self, name: str, value: float | str, most: float = 1.0) -> float:
        """Return the argument as a fraction from 0 to `most`, given as a number or in percent (`10%`)."""
        try:
            duration = Duration.parse(value) if isinstance(value, str) else None
        except ValueError:
            duration = None
        number = duration.value if duration is not None and duration.unit == "fraction" else value
        return self.number(name, number, 0.0, most)

    def level(self, name: str, value: float | str, most: float = 1.0) -> float:
        """Return the argument as a share up to `most` (see `share`), or as an `AbsoluteLR` if it is one (`1e-6 lr`)."""
        if isinstance(value, AbsoluteLR):
            return value
        level = AbsoluteLR.parse(value) if isinstance(value, str) else None
        return self.share(name, value, most) if level is None else level

    def switch(self, name: str, value: object) -> bool:
        """Return the argument, which must be true or false."""
        if not isinstance(value, bool):
            self.wrong(name, value, "expected true or false")
        return value is True

    def choice(self, name: str, value: str, known: Sequence[str]) -> str:
        """Return the argument, which must be one of the `known` words."""
        if value not in known:
            self.wrong(name, value, f"expected {', '.join(known)}", did_you_mean(str(value), known))
        return value

    def finish(self) -> None:
        """Raise one ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError(self.problems)


def unknown_argument(key: str, value: object, message: str, known: Iterable[str]) -> UnknownProblem:
    """Return the problem of an argument that is none of the `known` ones, with the nearest of them as hint."""
    known = tuple(known)
    return UnknownProblem(key, message, value, did_you_mean(key.rpartition(".")[2], known), known=known)


REPEATED = ("every", "period", "cycle", "restart_warmup", "timescale", "hold")
"""Arguments that are intervals between changes of the LR."""


def count_steps(duration: Duration, horizon: Horizon, name: str, problems: list[Problem]) -> int | None:
    """Return the duration in steps.

    None, after adding a problem, if the horizon lacks what the unit needs, or if no run is so long.
    """
    try:
        last = name.rpartition(".")[2]
        count = duration.interval if last in REPEATED else duration.steps
        steps = duration.steps_at_end(horizon) if last == "cooldown" else count(horizon)
        if steps <= MOST_STEPS:
            return steps
        problems.append(Problem(name, f"is longer than the {MOST_STEPS:,} steps that a run has at most", str(duration)))
        return None
    except ValueError as error:
        problems.append(
            Problem(
                name,
                str(error),
                str(duration),
                uncountable_hint(duration, horizon),
            )
        )
        return None


def uncountable_hint(duration: Duration, horizon: Horizon | None = None) -> str:
    """Return the hint for a duration that cannot be converted to the steps of a run."""
    given = "give steps ('500 steps') or a share of the run ('10%')"
    if horizon is not None and horizon.batch is not None:
        return given
    known = (
        "a loader that has samples_per_batch sets the samples per step"
        if duration.unit == "samples"
        else "trainer.limit_train_batches=N makes an epoch N batches long"
    )
    return f"{given}; or {known}"


def prefix_keys(key: str, problems: list[Problem]) -> list[Problem]:
    """Return the problems with `key` put before their own keys."""
    return [replace(problem, key=f"{key}.{problem.key}" if problem.key else key) for problem in problems]

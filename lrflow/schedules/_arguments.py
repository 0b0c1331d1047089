"""Reads the arguments of schedules and shapes, and gathers everything that is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.schedules.time import Duration, DurationLike, Horizon


class Fields:
    """Collects problems while a constructor reads its arguments; `finish` raises them together.

    Args:
        key: where the arguments stand in a config, `schedule` or `schedule.shape`.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.problems: list[Problem] = []

    def wrong(self, name: str, value: object, message: str, hint: str | None = None, where: str | None = None) -> None:
        """Notes a problem with the argument `name`; `where` is the file and line that it came from, if it did."""
        self.problems.append(Problem(f"{self.key}.{name}", message, value, hint, where))

    def duration(self, name: str, value: DurationLike) -> Duration:
        """The argument as a duration; 0 steps stand in for one that cannot be read."""
        try:
            return Duration.parse(value)
        except ValueError as error:
            self.wrong(name, value, str(error))
            return Duration(0, "steps")

    def number(self, name: str, value: float | str, low: float, high: float, *, open_low: bool = False) -> float:
        """The argument as a float in [low, high], or in (low, high] where `low` itself is excluded."""
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            number = float(value)
            if low <= number <= high and not (open_low and number == low):
                return number
        bounds = f"{'above' if open_low else 'from'} {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
        self.wrong(name, value, f"expected a number {bounds}")
        return math.nan

    def share(self, name: str, value: float | str) -> float:
        """The argument as a fraction from 0 to 1, given as a number or in percent (`10%`)."""
        try:
            duration = Duration.parse(value) if isinstance(value, str) else None
        except ValueError:
            duration = None
        number = duration.value if duration is not None and duration.unit == "fraction" else value
        return self.number(name, number, 0.0, 1.0)

    def choice(self, name: str, value: str, known: Sequence[str]) -> str:
        """The argument as one of a few words."""
        if value not in known:
            self.wrong(name, value, f"expected {', '.join(known)}", did_you_mean(str(value), known))
        return value

    def finish(self) -> None:
        """Raises one ConfigError with every problem noted, if there is any."""
        if self.problems:
            raise ConfigError(self.problems)


def length(duration: Duration, horizon: Horizon, name: str, problems: list[Problem]) -> int | None:
    """The duration in steps, or None and a problem noted when the horizon cannot tell."""
    try:
        return duration.steps(horizon)
    except ValueError as error:
        problems.append(
            Problem(
                name,
                str(error),
                str(duration),
                uncounted(duration),
            )
        )
        return None


def uncounted(duration: Duration) -> str:
    """What helps where a duration cannot be counted in steps of a run."""
    known = (
        "a loader that has samples_per_batch says how many samples a step sees"
        if duration.unit == "samples"
        else "trainer.limit_train_batches=N makes an epoch N batches long"
    )
    return f"give steps ('500 steps') or a share of the run ('10%'); or {known}"


def under(key: str, problems: list[Problem]) -> list[Problem]:
    """The problems of a part, with their keys below the part's own key."""
    return [replace(problem, key=f"{key}.{problem.key}" if problem.key else key) for problem in problems]

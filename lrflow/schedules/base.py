"""The base of every schedule: a pure curve over the steps of a run; and the settings that move along with the LR.

What every shape is: a pure curve between warmup and cooldown, never above 1.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from lrflow.errors import Problem, did_you_mean
from lrflow.imports import np
from lrflow.schedules.time import Duration, Floats, Horizon, Phase

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


BETA = re.compile(r"beta([1-9])")
"""An entry of `betas`, by its place: beta1 is the first."""


class Curve(ABC):
    """A pure function from (step, horizon) to a multiplier of the peak LR: `Schedule`, `Unfreezing` or `Continued`.

    Subclasses are frozen dataclasses and compute elementwise.
    """

    key: ClassVar[str] = "schedule"

    floor: float
    """Fraction of the peak below which the LR never falls outside the warmup."""

    def __call__(self, step: ArrayLike, horizon: Horizon) -> Any:
        """The multipliers of the peak LR.

        Args:
            step: optimizer steps already made, one or an array of them; 0 is the first step, `horizon.steps - 1` the
                last one executed. Steps past the end give the value at `horizon.steps`. Fractions are allowed.
            horizon: how long the run is.

        Returns:
            float64, a scalar for one step and an array of the same shape for an array, bit for bit the same.

        Raises:
            ValueError: a duration is in epochs and the horizon does not know their steps.
        """
        given = np.asarray(step, dtype=np.float64)
        # One contiguous row whatever was given: numpy's kernels may differ in the last bit between memory layouts.
        steps = np.clip(given.reshape(-1), 0.0, horizon.steps)
        return self.values(steps, horizon).reshape(given.shape)[()]

    @abstractmethod
    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """The multipliers at a row of steps that all lie in [0, horizon.steps]."""

    @abstractmethod
    def phase(self, horizon: Horizon) -> Phase:
        """Where the warmup ends and the cooldown starts (the end of the run, where there is none)."""

    @abstractmethod
    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """The steps, rising, at which the curve is declared to leave its value at once; the run's end may be one."""

    def starts(self, horizon: Horizon) -> int:
        """The first step at which a group with this curve trains; it is frozen before, and the curve is 0."""
        return 0

    def unfrozen(self) -> Curve:
        """The curve without the stretch in which its group is frozen."""
        return self

    def split(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """The curve of the LR alone, and each setting of the optimizer that moves besides, with what moves it."""
        return self, ()

    @abstractmethod
    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Everything that cannot be meant with this horizon.

        Args:
            horizon: how long the run is.
            key: where the schedule stands in the config, `schedule` by default.
        """


@dataclass(frozen=True)
class ScheduledSetting:
    """A setting of the optimizer that moves between two values over the run.

    It stands at `high` where its curve is 1 and at `low` where that is 0; inverse, the other way round. The values are
    those of the optimizer's own setting: a group whose setting is half of it moves between half the values, and one
    whose setting is 0 has it switched off, and stays there.

    Args:
        name: `momentum`, `beta1`, `beta2`, `weight_decay` or any other number among the optimizer's settings. Where no
            optimizer of the run has a `momentum`, it means `beta1`.
        curve: what moves it, in place of the peak LR; None: the curve of the LR.
        low: at least 0.
        high: at least `low`; None: the optimizer's own.
        inverse: whether it falls as the curve rises.
        optional: whether an optimizer that lacks the setting, or has it switched off, is left as it is.
    """

    name: str
    curve: Curve | None = None
    low: float = 0.0
    high: float | None = None
    inverse: bool = False
    optional: bool = False

    def setting(self, known: Mapping[str, float]) -> str | None:
        """Which of an optimizer's settings it moves, None where there is no such one.

        Args:
            known: the optimizer's settings, as `numeric_settings` gives them.
        """
        if self.name in known:
            return self.name
        return "beta1" if self.name == "momentum" and "beta1" in known else None

    def check(self, known: Mapping[str, float], key: str) -> list[Problem]:
        """What cannot be meant with an optimizer.

        Args:
            known: its settings, as `numeric_settings` gives them.
            key: where the entry stands in the config.
        """
        setting = self.setting(known)
        if setting is None:
            if self.optional:
                return []
            others = [name for name in known if name != "lr"]
            others += ["momentum"] if "beta1" in known else []
            return [Problem(key, "the optimizer has no such setting", ..., did_you_mean(self.name, others))]
        own = known[setting]
        name = "betas" if BETA.fullmatch(setting) else setting
        if own == 0.0:
            hint = f"give optimizer.{name} a value, from which the groups of parameters differ in proportion"
            return [] if self.optional else [Problem(key, f"{setting} is 0, which is off, and stays off", ..., hint)]
        if self.high is None and self.low > own:
            return [Problem(f"{key}.low", f"is above {own:g}, the optimizer's own", self.low, "give a high too")]
        return []


def numeric_settings(settings: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among an optimizer's settings, its betas each by its own name.

    Args:
        settings: as a config or a parameter group has them, `{"lr": 0.1, "betas": [0.9, 0.999]}`.
    """
    betas = settings.get("betas")
    pairs = dict(settings)
    if isinstance(betas, list | tuple):
        pairs |= {f"beta{place}": beta for place, beta in enumerate(betas, start=1)}
    return {
        name: float(value)
        for name, value in pairs.items()
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    }


def highest_settings(known: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Every setting that one of several optimizers has, at the highest value that it has there."""
    most: dict[str, float] = {}
    for settings in known:
        most |= {name: max(value, most.get(name, value)) for name, value in settings.items()}
    return most


class Shape(ABC):
    """A curve from (step, phase) to a multiplier in [0, 1], without state.

    It is 1 at the phase's start, or comes to 1 inside the phase where it has a rise of its own.

    Subclasses are frozen dataclasses; they compute elementwise in float64, also at fractional steps.
    """

    key: ClassVar[str] = "schedule.shape"

    lands: ClassVar[bool] = False
    """Whether it is exactly 0 at the phase's end: a floor then lifts the whole curve instead of cutting it."""

    @abstractmethod
    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """The multipliers at these steps, of the same shape; before the phase the first, after it the last."""

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The steps, rising, at which the curve changes at once; none for a continuous one."""
        return ()

    def check(self, phase: Phase) -> list[Problem]:
        """What cannot be meant with this phase; keys are the shape's own fields."""
        return []


def last_before(stop: int, every: int) -> int:
    """How many times `every` comes round before the step `stop`, which is not of the phase any more."""
    return max(stop - 1, 0) // every


def never(every: Duration, steps: int, phase: Phase) -> Problem:
    """The problem of an `every` that does not come round inside the phase."""
    message = f"is {steps} steps, so the LR never falls between step {phase.start} and step {phase.stop}"
    return Problem("every", message, str(every))

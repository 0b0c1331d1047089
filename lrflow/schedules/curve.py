"""The base classes of schedules and shapes, and the optimizer settings that are scheduled along with the LR."""

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
from lrflow.wording import counted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


BETA = re.compile(r"beta([1-9])")
"""The name of an entry of `betas`: beta1 is the first."""


class Curve(ABC):
    """A pure function from (step, horizon) to a multiplier of the peak LR: `Schedule`, or one that wraps it.

    Subclasses are frozen dataclasses and compute elementwise.
    """

    key: ClassVar[str] = "schedule"

    floor: float
    """Fraction of the peak below which the LR never falls outside the warmup."""

    def __call__(self, step: ArrayLike, horizon: Horizon) -> Any:
        """The multipliers of the peak LR.

        Args:
            step: optimizer steps already made, one number or an array; 0 is the first step, `horizon.steps - 1` the
                last one executed. Steps past the end give the value at `horizon.steps`. Fractions are allowed.
            horizon: how long the run is.

        Returns:
            float64, a scalar for one step, an array of the same shape for an array; both have the same bits.

        Raises:
            ValueError: a duration is in epochs or samples, and the horizon does not know their steps.
        """
        given = np.asarray(step, dtype=np.float64)
        # Always one contiguous row: numpy's kernels may differ in the last bit between memory layouts.
        steps = np.clip(given.reshape(-1), 0.0, horizon.steps)
        return self.values(steps, horizon).reshape(given.shape)[()]

    @abstractmethod
    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n], all in [0, horizon.steps]."""

    @abstractmethod
    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of the warmup to the start of the cooldown, or to the end of the run."""

    @abstractmethod
    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the curve is declared to jump; the run's end may be one."""

    def first_step(self, horizon: Horizon) -> int:
        """Return the first step at which a group with this curve trains; before it the group is frozen, the curve 0."""
        return 0

    def frozen_from(self, horizon: Horizon) -> int | None:
        """Return the first step at which a group with this curve no longer trains; None: it trains to the end."""
        return None

    def without_freezing(self) -> Curve:
        """Return the curve of a group that trains in the whole run."""
        return self

    @property
    def may_stay_below(self) -> bool:
        """Whether the curve may stay below the peak over the whole run, as it was declared."""
        return False

    @property
    def highest(self) -> float:
        """The highest multiplier that the curve may have, as it was declared: 1 is the peak."""
        return 1.0

    def of_peak(self, lr: float) -> Curve:
        """Return the curve of a group with this peak LR, of which levels given as an LR are then known fractions.

        Raises:
            ConfigError: a level is above the peak.
        """
        return self

    def split_settings(self) -> tuple[Curve, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """Return the curve of the LR alone, and the scheduled settings, each with the curve that moves it."""
        return self, ()

    @abstractmethod
    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem that the curve has with this horizon.

        Args:
            horizon: how long the run is.
            key: the schedule's key in the config; `schedule` by default.
        """


class Shape(ABC):
    """A stateless curve from (step, phase) to a multiplier in [0, 1].

    It is 1 at the start of the phase, or reaches 1 inside the phase if it has a rise of its own.

    Subclasses are frozen dataclasses; they compute elementwise in float64, also at fractional steps.
    """

    key: ClassVar[str] = "schedule.shape"

    lands: ClassVar[bool] = False
    """Whether the curve is 0 at the end of the phase: a floor then scales the whole curve instead of clipping it."""

    may_stay_below: ClassVar[bool] = False
    """Whether the curve may stay below 1 in the whole phase, as its arguments say."""

    @abstractmethod
    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return the multipliers at these steps, of the same shape; outside the phase, those at its start or end."""

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the steps, in order, at which the curve jumps; none if it is continuous."""
        return ()

    def check(self, phase: Phase) -> list[Problem]:
        """Return the problems that the shape has with this phase; their keys are the shape's own fields."""
        return []


@dataclass(frozen=True)
class ScheduledSetting:
    """An optimizer setting other than the LR that is scheduled between two values.

    It is `high` where its curve is 1 and `low` where its curve is 0, or the other way round if `inverse`. `low` and
    `high` refer to the optimizer's own setting: a group whose setting is half of that moves between half the values. A
    group whose setting is 0 has it switched off and keeps it at 0.

    Args:
        name: `momentum`, `beta1`, `beta2`, `weight_decay` or any other numeric setting of the optimizer. `momentum`
            means `beta1` if no optimizer of the run has a `momentum`.
        curve: the curve that moves it; None: the curve of the LR.
        low: at least 0.
        high: at least `low`; None: the optimizer's own value.
        inverse: whether the setting falls while its curve rises.
        optional: whether an optimizer that lacks the setting, or has it switched off, is skipped instead of an error.
    """

    name: str
    curve: Curve | None = None
    low: float = 0.0
    high: float | None = None
    inverse: bool = False
    optional: bool = False

    def setting(self, known: Mapping[str, float]) -> str | None:
        """Return the optimizer's name of the setting; None if the optimizer has no such setting.

        Args:
            known: the optimizer's settings, as `numeric_settings` gives them.
        """
        if self.name in known:
            return self.name
        return "beta1" if self.name == "momentum" and "beta1" in known else None

    def check(self, known: Mapping[str, float], key: str) -> list[Problem]:
        """Return the problems that this entry has with an optimizer.

        Args:
            known: its settings, as `numeric_settings` gives them.
            key: the entry's key in the config.
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
            hint = f"give optimizer.{name} a value above 0, to which the groups' values are proportional"
            return [] if self.optional else [Problem(key, f"{setting} is 0, which switches it off", ..., hint)]
        if self.high is None and self.low > own:
            return [Problem(f"{key}.low", f"is above {own:g}, the optimizer's own", self.low, "give a high too")]
        return []


def numeric_settings(settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the numeric settings of an optimizer, with each entry of betas under its own name.

    Args:
        settings: of a config or a parameter group, such as `{"lr": 0.1, "betas": [0.9, 0.999]}`.
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
    """Return the settings of several optimizers in one mapping, each at its highest value."""
    most: dict[str, float] = {}
    for settings in known:
        most |= {name: max(value, most.get(name, value)) for name, value in settings.items()}
    return most


MOST_CHANGES = 1_000_000
"""Most jumps of a curve; each of them is kept in memory."""


def too_many_changes(name: str, every: Duration, count: int) -> list[Problem]:
    """Return the problem of a curve with more than `MOST_CHANGES` jumps, or none.

    Args:
        name: argument that sets the time between them.
        every: its value.
        count: number of jumps.
    """
    if count <= MOST_CHANGES:
        return []
    message = f"would change the LR {count:,} times in this run, of which {MOST_CHANGES:,} are possible"
    return [Problem(name, message, str(every), "give a longer duration")]


def sampled(steps: int, count: int = 1 << 20) -> NDArray[np.int64]:
    """Return all steps of a run, or at most `count` of a longer one, evenly spaced, with the first and the last."""
    if steps <= count:
        return np.arange(steps)
    return np.linspace(0, steps - 1, count).round().astype(np.int64)


def periods_before(stop: int, every: int) -> int:
    """Return how many periods of `every` steps end before the step `stop`."""
    return max(stop - 1, 0) // every


def never_falls(every: Duration, steps: int, phase: Phase) -> Problem:
    """Return the problem of a period `every` that does not end inside the phase."""
    message = f"is {counted(steps, 'step')}, so the LR never falls between step {phase.start} and step {phase.stop}"
    return Problem("every", message, str(every))

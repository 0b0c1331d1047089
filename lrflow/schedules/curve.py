"""What every schedule is: a pure curve over the steps of a run, evaluated the same way however it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from lrflow.errors import Problem
from lrflow.schedules.horizons import Floats, Horizon, Phase

if TYPE_CHECKING:
    from lrflow.schedules.also import Also


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

    def split(self) -> tuple[Curve, tuple[tuple[Also, Curve], ...]]:
        """The curve of the LR alone, and each setting of the optimizer that moves besides, with what moves it."""
        return self, ()

    @abstractmethod
    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Everything that cannot be meant with this horizon.

        Args:
            horizon: how long the run is.
            key: where the schedule stands in the config, `schedule` by default.
        """

    def spec(self) -> dict[str, Any]:
        """The curve as plain data, the way it stands in a config: `_target_` and arguments."""
        from lrflow.schedules.specs import to_spec

        return to_spec(self)

    @staticmethod
    def from_spec(
        spec: Mapping[str, Any], key: str = "schedule", resolve: Callable[[str], type] | None = None
    ) -> Curve:
        """Builds the curve that a spec describes.

        Args:
            spec: what `spec()` gave, or the content of a schedule's config.
            key: where it stands in the config, for messages.
            resolve: from a `_target_` to its class, for shapes of one's own; by default lrflow's schedules only. What
                it refuses it tells with a ConfigError or a ValueError.

        Raises:
            ConfigError: with every problem of the spec.
        """
        from lrflow.schedules.specs import from_spec

        return from_spec(spec, key, resolve)

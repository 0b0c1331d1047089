"""A shape that is a plain function of one's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lrflow.errors import Problem
from lrflow.lazy import np
from lrflow.schedules.horizons import Floats, Phase
from lrflow.schedules.shape import Shape


@dataclass(frozen=True)
class Function(Shape):
    """A function from the share of the phase that is over to the multiplier, `def decay(progress: float) -> float`.

    It is called with one number at a time, from 0 at the phase's start to 1 at its end.

    Args:
        function: it must be found again by its dotted name, which is what a plan remembers.
        arguments: its further arguments, by name.
    """

    function: Callable[..., float]
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """The function at each share."""
        arguments = dict(self.arguments)
        shares = phase.progress(step)
        return np.array([self.function(share, **arguments) for share in shares.tolist()], dtype=np.float64)

    def check(self, phase: Phase) -> list[Problem]:
        """It must give a multiplier wherever it is asked."""
        for share in (0.0, 0.5, 1.0):
            try:
                value = float(self.function(share, **dict(self.arguments)))
            except Exception as error:  # of the user's own code, whatever it is
                message = f"{self.function.__name__}({share:g}) fails: {type(error).__name__}: {error}"
                return [Problem("", message)]
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                return [Problem("", f"{self.function.__name__}({share:g}) is {value:g}, not a multiplier from 0 to 1")]
        return []

    def spec(self) -> dict[str, Any]:
        """The function as it stands in a config."""
        return {"_target_": f"{self.function.__module__}.{self.function.__qualname__}", **dict(self.arguments)}


def shape_of(function: Callable[..., float]) -> Callable[..., Function]:
    """What makes a shape of a function, given the function's arguments but for the first, which is the share."""

    def make(**arguments: Any) -> Function:
        held = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
        return Function(function, tuple(held.items()))

    signature = inspect.signature(function)
    make.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    make.__name__ = function.__name__
    return make

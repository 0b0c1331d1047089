"""What a run averages: from which step on the weights enter, how often, and with which share; without torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

WIDEST = 0.28
"""Largest width of a power-function average: a uniform mean has 0.2887."""


@dataclass(frozen=True)
class Averaging:
    """When weights enter an average of the weights, and with which share.

    Args:
        kind: `ema`: each step keeps a share `decay` of the average; `uniform`: the mean of the weights that entered;
            `power`: the share that is kept grows with the steps (Karras et al., 2024, arXiv 2312.02696).
        first: the first step after which weights enter, counted from 1.
        every: steps between two entries; those after a multiple of it enter.
        last: the last step of the run.
        evaluate: whether the average is what is validated, saved as the best, tested and left in the module.
        decay: of `ema`.
        warmup: whether the decay of `ema` is at most (1 + t) / (10 + t) after t entries.
        widths: of `power`: the widths of all averages that are kept; the first one is evaluated.
        scalar: name of the scalar of the plan that is the decay of `ema`; None: `decay` is.
    """

    kind: Literal["ema", "uniform", "power"]
    first: int
    every: int
    last: int
    evaluate: bool = True
    decay: float = 0.0
    warmup: bool = False
    widths: tuple[float, ...] = ()
    scalar: str | None = None

    @property
    def count(self) -> int:
        """Number of averages that are kept."""
        return len(self.widths) or 1

    @property
    def continues(self) -> tuple[Any, ...]:
        """What has to be equal for a resumed run to continue the averages of a checkpoint."""
        return (self.kind, *self.widths)

    def enters(self, step: int) -> bool:
        """Whether the weights after this step, counted from 1, enter the averages."""
        return step >= self.first and step % self.every == 0

    def shares(self, entered: int, decay: float | None = None) -> tuple[float, ...]:
        """Return the share of the weights that enter next, one for each average.

        Args:
            entered: number of weights that have entered before; the first ones are the whole average.
            decay: of `ema` at this step; None: that of all steps.
        """
        if not entered:
            return (1.0,) * self.count
        if self.kind == "uniform":
            return (1.0 / (entered + 1),)
        if self.kind == "ema":
            keep = self.decay if decay is None else decay
            keep = min(keep, (1 + entered) / (10 + entered)) if self.warmup else keep
            return (1.0 - keep,)
        return tuple(1.0 - (1.0 - 1.0 / (entered + 1)) ** (exponent_of(width) + 1.0) for width in self.widths)

    def describe(self) -> str:
        """Return one line for people: what is averaged from which step on, and what it is used for."""
        decay = f"{self.decay:.6g}" if self.scalar is None else f"scalars.{self.scalar}"
        names = {
            "ema": f"an exponential moving average with decay {decay}{' (warmed up)' * self.warmup}",
            "uniform": "the mean",
            "power": f"a power-function average of width {' and '.join(f'{width:g}' for width in self.widths)}",
        }
        often = "each step" if self.every == 1 else f"every {self.every:,} steps"
        when = f"of the weights after {often} from {self.first:,} to {self.last:,}"
        which = f"that of width {self.widths[0]:g}" if self.count > 1 else "it"
        used = f"{which} is validated, saved as the best and tested" if self.evaluate else "only kept in checkpoints"
        return f"average: {names[self.kind]} {when}; {used}"

    def record(self) -> dict[str, Any]:
        """Return plain data for plan.json."""
        scalar = {} if self.scalar is None else {"scalar": self.scalar}
        own = {name: value for name, value in asdict(self).items() if name != "scalar"}
        return {**own, "widths": list(self.widths), **scalar}


def exponent_of(width: float) -> float:
    """Return the exponent gamma of the power-function average of a width.

    The average at time T weights the time t in proportion to t^gamma. Its width is the standard deviation of that
    profile as a share of T: sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)) (Karras et al., 2024, arXiv 2312.02696).

    Args:
        width: above 0 and at most `WIDEST`.
    """
    low, high = 0.0, 2.0 / width  # the width falls in gamma >= 0, and is below 1 / (gamma + 2)
    while (middle := (low + high) / 2) not in (low, high):
        if math.sqrt(middle + 1) / ((middle + 2) * math.sqrt(middle + 3)) > width:
            low = middle
        else:
            high = middle
    return low

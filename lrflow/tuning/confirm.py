"""Settling a learning rate by short whole runs: which LRs to try, and where between them the best one lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lrflow.tuning.valley import BESIDE, fit_parabola

STEP = 0.5  # decades between the LRs that are tried first
FINEST = BESIDE  # between those that are tried then


@dataclass(frozen=True)
class Confirmed:
    """What a few trial runs say of an LR.

    Args:
        lr: where a parabola, fitted to the losses around the best over the logarithm of the LR, is least.
        interval: the LRs between which that is no worse than the noise of the fit; at most from the one LR that was
            tried beside the best to the other.
        tried: LRs, rising, each with the loss that its run ended at; infinite where it diverged.
        doubts: why the answer is not to be trusted, each a sentence; none: it is.
    """

    lr: float
    interval: tuple[float, float]
    tried: tuple[tuple[float, float], ...]
    doubts: tuple[str, ...] = ()

    @property
    def confident(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.doubts


def confirm_lr(start: float, loss: Callable[[float], float], runs: int) -> Confirmed:
    """Look for the best LR near one, by runs whose LR is annealed as the whole run's.

    It looks half a decade to both sides, goes on by half decades where the loss still falls, then into the two gaps
    beside the best, the better side first. Both sides, because on a plateau of LRs that are too high the loss may fall
    a little upwards. How losses rank before an LR is annealed says little of how they rank after, so each run follows
    the whole schedule, scaled to its length.

    Args:
        start: where to begin, such as the answer of a range test.
        loss: what a run with an LR ends at; not finite where it diverged.
        runs: how many may be made; at least 3.

    Raises:
        ValueError: every run diverged.
    """
    found: dict[float, float] = {}

    while len(found) < runs and (position := _next(found)) is not None:
        value = loss(start * 10.0**position)
        found[position] = value if math.isfinite(value) else math.inf
    if not any(map(math.isfinite, found.values())):
        raise ValueError("every trial run diverged")
    return _read(start, found)


def _next(found: dict[float, float]) -> float | None:
    """The distance from the start, in decades, at which to look next; None: there is nothing left to refine."""
    if not found:
        return 0.0
    if not any(map(math.isfinite, found.values())):
        return min(found) - STEP
    if STEP not in found and math.isfinite(found[0.0]):
        return STEP
    if -STEP not in found:
        return -STEP
    below, best, above = _around(found)
    if below is None:
        return best - STEP
    if above is None:
        return best + STEP
    sides = sorted((below, above), key=lambda side: found[side])
    return next(((best + side) / 2 for side in sides if abs(side - best) > FINEST * 1.001), None)


def _around(found: dict[float, float]) -> tuple[float | None, float, float | None]:
    """The best position and its neighbours."""
    positions = sorted(found)
    index = positions.index(min(found, key=lambda position: found[position]))
    below = positions[index - 1] if index else None
    return below, positions[index], positions[index + 1] if index + 1 < len(positions) else None


def _read(start: float, found: dict[float, float]) -> Confirmed:
    """The answer, from the losses at distances from the start."""
    valley = fit_parabola(found)
    low, high = valley.interval
    tried = tuple((start * 10.0**position, found[position]) for position in sorted(found))
    doubts = []
    if not all(valley.bracketed):
        way, lr = "highest" if valley.bracketed[0] else "lowest", start * 10.0**valley.best
        doubts.append(f"the {way} LR that was tried, {lr:.3g}, was the best: one beyond it may be better")
    interval = (start * 10.0**low, start * 10.0**high)
    return Confirmed(start * 10.0**valley.at, interval, tried, tuple(doubts))

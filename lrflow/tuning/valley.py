"""Where a loss is least over the logarithm of the learning rate, from the few that were tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NEAR = 0.5  # decades around the best whose losses a parabola is fitted to
BESIDE = 0.25  # decades: closer ones differ by less than another seed would make
FLAT = 0.02  # how much worse than the least a loss may be where it is as good, as a share of how far losses differ
SLACK = 1.001  # so that rounding leaves no neighbour out


@dataclass(frozen=True)
class Valley:
    """The lowest part of a loss over positions in decades.

    Args:
        best: the position whose loss was the least.
        at: where a parabola, fitted to the losses near it, is least; `best` where none could be.
        interval: between which the parabola is no worse than the noise of the fit; at most from the one that was tried
            beside the best to the other.
        bracketed: whether something was tried below the best, and above it.
        parabola: bend, slope and level of the parabola over the distance from `best`; None: none was fitted.
        misfit: standard error of a loss about the parabola; 0 where it goes through all three that there are.
    """

    best: float
    at: float
    interval: tuple[float, float]
    bracketed: tuple[bool, bool]
    parabola: tuple[float, float, float] | None = None
    misfit: float = 0.0


def fit_parabola(
    losses: Mapping[float, float], near: float = NEAR, noise: float = 0.0, below: float = math.inf
) -> Valley:
    """Reads where a loss is least.

    Args:
        losses: by position, in decades; infinite where the run diverged.
        near: decades around the best that the parabola is fitted to.
        noise: standard error of a loss, where it is known; the misfit of the parabola comes on top.
        below: what a loss has to be for the parabola to be fitted to it: far above the best it is none.

    Raises:
        ValueError: every run diverged.
    """
    positions = sorted(losses)
    best = min(positions, key=lambda position: losses[position])
    if not math.isfinite(losses[best]):
        raise ValueError("every run diverged")
    bracketed = positions[0] < best, positions[-1] > best
    low = _beside(best, [position for position in reversed(positions) if position < best], losses)
    high = _beside(best, [position for position in positions if position > best], losses)
    close = [p for p in positions if abs(p - best) <= near * SLACK and losses[p] < below]
    if len(close) >= 3:
        away, found = np.array(close) - best, np.array([losses[position] for position in close])
        bend, slope, level = (float(number) for number in np.polyfit(away, found, 2))
        if bend > 0:
            left_over = found - (bend * away**2 + slope * away + level)
            misfit = math.sqrt(float((left_over**2).sum()) / max(1, len(close) - 3))
            at = best + min(max(-slope / (2 * bend), low - best), high - best)
            width = math.sqrt((FLAT * float(np.ptp(found)) + math.hypot(misfit, noise)) / bend)
            interval = max(low, at - width), min(high, at + width)
            return Valley(best, at, interval, bracketed, (bend, slope, level), misfit)
    return Valley(best, best, (low, high), bracketed)


def _beside(best: float, further: list[float], losses: Mapping[float, float]) -> float:
    """The next position that is not too close to differ; beyond the last that ended well nothing is known."""
    edge = best
    for position in further:
        if not math.isfinite(losses[position]):
            break
        edge = position
        if abs(edge - best) * SLACK >= BESIDE:
            break
    return edge

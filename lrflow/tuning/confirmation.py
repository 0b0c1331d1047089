"""Confirm an LR by the losses of other LRs: which ones to try, and a parabola fitted to their losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

FIRST_STEP = 0.5  # decades between the LRs that are tried first
MIN_DISTANCE = 0.25  # decades; losses of LRs that are closer differ by less than the losses of two seeds
FIT_RADIUS = 0.5  # decades around the best position; the parabola is fitted to the losses within
FLATNESS = 0.02  # share of the range of the fitted losses; a loss within this of the minimum counts as equally good
SLACK = 1.001  # factor on distances, so that rounding excludes no neighbour


@dataclass(frozen=True)
class Confirmation:
    """The LR that a few trial runs confirm.

    Args:
        lr: the minimum of a parabola fitted to the losses around the best, over the logarithm of the LR.
        interval: the LRs at which the parabola stays within the noise of the fit; it reaches at most to the LRs tried
            next to the best.
        tried: pairs of LR and final loss, by rising LR; an infinite loss: the run diverged.
        doubts: why the LR should not be trusted, one sentence each; empty: it can be trusted.
    """

    lr: float
    interval: tuple[float, float]
    tried: tuple[tuple[float, float], ...]
    doubts: tuple[str, ...] = ()

    @property
    def confident(self) -> bool:
        """Whether there is no doubt."""
        return not self.doubts


def confirm_lr(start: float, loss: Callable[[float], float], runs: int) -> Confirmation:
    """Search for the best LR near `start`.

    Half a decade to both sides is tried first; then further half decades while the loss still falls; then the middles
    of the two gaps around the best, the better side first. Both sides are tried because on a plateau of LRs that are
    too high the loss may fall a little upwards.

    Args:
        start: the first LR, such as the one that a range test suggests.
        loss: returns the final loss of a run with an LR; not finite if the run diverged.
        runs: how many runs may be made; at least 3.

    Raises:
        ValueError: every run diverged.
    """
    losses: dict[float, float] = {}

    while len(losses) < runs and (position := _next_position(losses)) is not None:
        value = loss(start * 10.0**position)
        losses[position] = value if math.isfinite(value) else math.inf
    if not any(map(math.isfinite, losses.values())):
        raise ValueError("every trial run diverged")
    return _confirmation(start, losses)


@dataclass(frozen=True)
class Minimum:
    """The minimum of a loss over positions in decades.

    Args:
        best: the position with the lowest loss.
        at: the vertex of a parabola fitted to the losses around `best`; `best` if no parabola fits.
        interval: the positions at which the parabola stays within the noise of the fit; it reaches at most to the
            neighbours of `best`.
        bracketed: whether a lower position than `best` was tried, and whether a higher one was.
        parabola: its coefficients (quadratic, linear, constant) over the distance from `best`; None: none was fitted.
        misfit: standard error of a loss about the parabola; 0 if it was fitted to three losses.
    """

    best: float
    at: float
    interval: tuple[float, float]
    bracketed: tuple[bool, bool]
    parabola: tuple[float, float, float] | None = None
    misfit: float = 0.0


def fit_parabola(
    losses: Mapping[float, float], radius: float = FIT_RADIUS, noise: float = 0.0, below: float = math.inf
) -> Minimum:
    """Fit a parabola around the lowest loss and return its minimum.

    Args:
        losses: by position, in decades; infinite if the run diverged.
        radius: decades around the best position; the parabola is fitted to the losses within.
        noise: standard error of a loss, if it is known; the misfit of the parabola is added to it.
        below: the parabola is fitted to losses below this value; far above the best, losses do not follow one.

    Raises:
        ValueError: every run diverged.
    """
    positions = sorted(losses)
    best = min(positions, key=lambda position: losses[position])
    if not math.isfinite(losses[best]):
        raise ValueError("every run diverged")
    bracketed = positions[0] < best, positions[-1] > best
    low = _edge(best, [position for position in reversed(positions) if position < best], losses)
    high = _edge(best, [position for position in positions if position > best], losses)
    close = [p for p in positions if abs(p - best) <= radius * SLACK and losses[p] < below]
    if len(close) >= 3:
        distances, values = np.array(close) - best, np.array([losses[position] for position in close])
        quadratic, linear, constant = (float(number) for number in np.polyfit(distances, values, 2))
        if quadratic > 0:
            residuals = values - (quadratic * distances**2 + linear * distances + constant)
            misfit = math.sqrt(float((residuals**2).sum()) / max(1, len(close) - 3))
            at = best + min(max(-linear / (2 * quadratic), low - best), high - best)
            width = math.sqrt((FLATNESS * float(np.ptp(values)) + math.hypot(misfit, noise)) / quadratic)
            interval = max(low, at - width), min(high, at + width)
            return Minimum(best, at, interval, bracketed, (quadratic, linear, constant), misfit)
    return Minimum(best, best, (low, high), bracketed)


def _confirmation(start: float, losses: dict[float, float]) -> Confirmation:
    """Return the confirmed LR, from losses by position in decades from the start."""
    minimum = fit_parabola(losses)
    low, high = minimum.interval
    tried = tuple((start * 10.0**position, losses[position]) for position in sorted(losses))
    doubts = []
    if not all(minimum.bracketed):
        extreme, lr = "highest" if minimum.bracketed[0] else "lowest", start * 10.0**minimum.best
        doubts.append(f"the best LR, {lr:.3g}, is the {extreme} that was tried: one beyond it may be better")
    interval = (start * 10.0**low, start * 10.0**high)
    return Confirmation(start * 10.0**minimum.at, interval, tried, tuple(doubts))


def _next_position(losses: dict[float, float]) -> float | None:
    """Return the next position to try, in decades from the start; None: no gap is left to refine."""
    if not losses:
        return 0.0
    if not any(map(math.isfinite, losses.values())):
        return min(losses) - FIRST_STEP
    if FIRST_STEP not in losses and math.isfinite(losses[0.0]):
        return FIRST_STEP
    if -FIRST_STEP not in losses:
        return -FIRST_STEP
    below, best, above = _neighbours(losses)
    if below is None:
        return best - FIRST_STEP
    if above is None:
        return best + FIRST_STEP
    sides = sorted((below, above), key=lambda side: losses[side])
    return next(((best + side) / 2 for side in sides if abs(side - best) > MIN_DISTANCE * SLACK), None)


def _neighbours(losses: dict[float, float]) -> tuple[float | None, float, float | None]:
    """Return the best position, between the next lower and the next higher one."""
    positions = sorted(losses)
    index = positions.index(min(losses, key=lambda position: losses[position]))
    below = positions[index - 1] if index else None
    return below, positions[index], positions[index + 1] if index + 1 < len(positions) else None


def _edge(best: float, outward: list[float], losses: Mapping[float, float]) -> float:
    """Return the next position at least `MIN_DISTANCE` from the best, or the last one before a divergence."""
    edge = best
    for position in outward:
        if not math.isfinite(losses[position]):
            break
        edge = position
        if abs(edge - best) * SLACK >= MIN_DISTANCE:
            break
    return edge

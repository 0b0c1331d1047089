"""The course of the loss so far, in medians that do not depend on its unit or on the length of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lrflow.health.history import WINDOW, Bins, History

OVERFLOW = 3.0
"""How many times the untrained loss a loss reaches only because of the LR."""

_LEAST = 10  # steps of a level
_UNTRAINED = 8  # most steps of a warmup whose losses are those of the untrained model


@dataclass(frozen=True)
class Course:
    """Levels of the loss: medians over a twentieth of the run each, at least 10 steps; over less of a long run.

    Args:
        width: steps of a level.
        untrained: the loss of the first steps, before the LR is high.
        best: the lowest level so far.
        peak: the highest median of the losses of a tenth of the run; -inf: it is shorter yet.
        rose: the middle step of that tenth.
        before: the last level but one.
        now: the last level; infinite if most of its losses are.
        low: the lowest of the last three levels.
        scatter: the interquartile range of the losses of the last two levels.
        doubt: standard error of `untrained`, by the scatter of the last losses; at most 0.3 times `scale`.
        steps: the middle steps of the levels; [n], float64.
        levels: all levels; [n], float64.
    """

    width: int
    untrained: float
    best: float
    peak: float
    rose: float
    before: float
    now: float
    low: float
    scatter: float
    doubt: float
    steps: np.ndarray
    levels: np.ndarray

    @property
    def scale(self) -> float:
        """What a change of the loss is compared with: the untrained loss, or the improvement so far."""
        return max(abs(self.untrained), self.untrained - self.best, 1e-12)

    @property
    def improvement(self) -> float:
        """How far the best level is below the untrained loss; at least 0."""
        return max(0.0, self.untrained - self.best)

    @property
    def is_flat(self) -> bool:
        """Whether the loss fell by less than 5% of its scale from the last level but one to the last, and by chance."""
        chance = 1.3 * self.scatter / self.width**0.5  # a standard error of the difference of two medians
        return not self.now < self.before - 0.05 * self.scale - chance

    @property
    def chance_level(self) -> float:
        """The lowest loss that may be that of the untrained model."""
        return self.untrained - max(0.1 * self.scale, self.doubt)

    def is_wild(self, history: History) -> bool:
        """Whether the loss still jumps, so that an LR that decays may catch it, in the first 60% of the run."""
        is_caught = history.step >= 0.3 * history.facts.steps and history.is_at_peak(2 * self.width)
        is_late = history.step >= 0.6 * history.facts.steps
        return self.scatter > 0.3 * self.scale and not (history.growth > 5 or is_caught or is_late)

    def is_stuck(self, history: History) -> bool:
        """Whether the loss is at least that of the untrained model, and does not fall."""
        return self.is_flat and self.chance_level < self.low < np.inf and not self.is_wild(history)

    @property
    def has_risen(self) -> bool:
        """Whether the loss was above the untrained one, by 5% and more than chance, in most of a tenth of the run."""
        return self.peak > self.untrained + max(0.05 * self.scale, 2 * self.doubt)

    @property
    def has_exploded(self) -> bool:
        """Whether the loss was so high for a tenth of the run that not even sorted examples make it so."""
        return self.peak > self.untrained + (OVERFLOW - 1) * abs(self.untrained)

    def since(self, level: float) -> int:
        """Return the first step after which the loss stays above a level, as far as its levels tell."""
        below = np.flatnonzero(self.levels <= level)
        return int(self.steps[below[-1]] + self.width / 2) if len(below) else 0

    @classmethod
    def of(cls, history: History) -> Course | None:
        """Return the course of a run; None: it is too short yet, or its loss says nothing about progress."""
        return history.remembered(cls._of)

    @classmethod
    def _of(cls, history: History) -> Course | None:
        steps = history.facts.steps
        width = max(_LEAST, steps // 100, min(steps // 20, WINDOW // 3))
        if not history.facts.losses or history.step < 3 * width or not np.isfinite(history.first).any():
            return None
        middles, levels = _levels(history.bins["loss"], width)
        recent = history.recent["loss"][-3 * width :]
        if history.not_finite:
            recent = np.where(np.isfinite(recent), recent, np.inf)
        if 3 * width <= WINDOW:
            last = [_median(part) for part in np.split(recent, [width, 2 * width])]
        else:
            last = levels[-3:].tolist()
        recent = recent[-2 * width :]
        finite = np.sort(recent[np.isfinite(recent)])
        low, high = (_quantile(finite, share) if len(finite) else np.inf for share in (0.25, 0.75))
        first = history.first[np.isfinite(history.first)]
        first = first[: min(max(1, history.facts.warmup // 10), _UNTRAINED)]
        untrained = min(float(first[0]), _median(first))
        best = float(min(levels.min(), untrained))
        peak, rose = _highest(history.bins["loss"], 2 * width)
        scatter = float(high - low) if np.isfinite(high) else np.inf
        doubt = min(0.75 * scatter / len(first) ** 0.5, 0.3 * max(abs(untrained), untrained - best))
        levels_of = {"before": last[-2], "now": last[-1], "low": min(last)}
        return cls(
            width, untrained, best, peak, rose, **levels_of, scatter=scatter, doubt=doubt, steps=middles, levels=levels
        )


def _levels(bins: Bins, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle steps and the medians of parts of at least `width` steps each; steps left over are left out."""
    size = -(-width // bins.width)
    means, steps = bins.means, bins.steps
    parts = max(1, len(means) // size)
    size = min(size, len(means))
    means, steps = (values[: parts * size].reshape(parts, size) for values in (means, steps))
    means = np.sort(means, axis=1)  # NumPy's own median and quantile take ten times as long for so few values
    return steps.mean(axis=1), (means[:, (size - 1) // 2] + means[:, size // 2]) / 2


def _highest(bins: Bins, width: int) -> tuple[float, float]:
    """Return the highest median of any parts of about `width` steps in a row, and the middle step there."""
    size, means = max(1, width // bins.width), bins.means
    if len(means) < size:
        return -np.inf, 0.0
    medians = np.median(np.lib.stride_tricks.sliding_window_view(means, size), axis=1)
    at = int(medians.argmax())
    return float(medians[at]), float(bins.steps[at : at + size].mean())


def _median(losses: np.ndarray) -> float:
    some = np.sort(losses[~np.isnan(losses)])
    return _quantile(some, 0.5) if len(some) else float("nan")


def _quantile(ordered: np.ndarray, share: float) -> float:
    """Return the value below which a share of them lies, of values in order; infinite ones make no NaN."""
    place = share * (len(ordered) - 1)
    low, high = float(ordered[int(place)]), float(ordered[math.ceil(place)])
    return low if low == high else low + (high - low) * (place - int(place))

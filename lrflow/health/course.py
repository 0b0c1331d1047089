"""The course of the loss so far, in medians that do not depend on its unit or on the length of the run."""

from __future__ import annotations

import math
from functools import cached_property
from typing import cast

import numpy as np

from lrflow.health.history import WINDOW, Binned, History

OVERFLOW = 3.0
"""How many times the untrained loss a loss reaches only because of the LR."""

_LEAST = 10  # steps of a level
_UNTRAINED = 8  # most steps of a warmup whose losses are those of the untrained model


class Course:
    """Levels of the loss: medians over a twentieth of the run each, at least 10 steps; over less of a long run.

    Each is computed when it is first asked for, before the history goes on: a healthy run needs few of them.

    Args:
        history: of the run.
        width: steps of a level.
    """

    def __init__(self, history: History, width: int) -> None:
        self._history, self.width = history, width
        self._losses = history.bins["loss"]

    @cached_property
    def _first(self) -> np.ndarray:
        """The finite losses of the untrained model."""
        first = self._history.first[np.isfinite(self._history.first)]
        return first[: min(max(1, self._history.facts.warmup // 10), _UNTRAINED)]

    @cached_property
    def untrained(self) -> float:
        """The loss of the first steps, before the LR is high."""
        return min(float(self._first[0]), _median(self._first))

    @cached_property
    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        return _levels(self._losses, self.width)

    @property
    def steps(self) -> np.ndarray:
        """The middle steps of the levels; [n], float64."""
        return self._levels[0]

    @property
    def levels(self) -> np.ndarray:
        """All levels; [n], float64."""
        return self._levels[1]

    @cached_property
    def best(self) -> float:
        """The lowest level so far, at most that of the untrained model."""
        return float(min(self.levels.min(), self.untrained))

    @cached_property
    def _highest(self) -> tuple[float, float]:
        return _highest(self._losses, 2 * self.width)

    @property
    def peak(self) -> float:
        """The highest median of the losses of a tenth of the run; -inf: it is shorter yet."""
        return self._highest[0]

    @property
    def rose(self) -> float:
        """The middle step of that tenth."""
        return self._highest[1]

    @cached_property
    def _recent(self) -> np.ndarray:
        """The losses of the last three levels; those that are not finite are infinite."""
        recent = self._history.recent["loss"][-3 * self.width :]
        return np.where(np.isfinite(recent), recent, np.inf) if self._history.not_finite else recent

    @cached_property
    def _last(self) -> list[float]:
        """The last three levels."""
        width = self.width
        if 3 * width > WINDOW:
            return cast(list[float], self.levels[-3:].tolist())
        return [_median(self._recent[start : start + width]) for start in (0, width, 2 * width)]

    @property
    def before(self) -> float:
        """The last level but one."""
        return self._last[-2]

    @property
    def now(self) -> float:
        """The last level; infinite if most of its losses are."""
        return self._last[-1]

    @property
    def low(self) -> float:
        """The lowest of the last three levels."""
        return min(self._last)

    @cached_property
    def scatter(self) -> float:
        """The interquartile range of the losses of the last two levels."""
        recent = self._recent[-2 * self.width :]
        finite = np.sort(recent[np.isfinite(recent)])
        low, high = (_quantile(finite, share) if len(finite) else np.inf for share in (0.25, 0.75))
        return float(high - low) if np.isfinite(high) else np.inf

    @cached_property
    def doubt(self) -> float:
        """Standard error of `untrained`, by the scatter of the last losses; at most 0.3 times `scale`."""
        limit = 0.3 * max(abs(self.untrained), self.untrained - self.best)
        return min(0.75 * self.scatter / len(self._first) ** 0.5, limit)

    @cached_property
    def scale(self) -> float:
        """What a change of the loss is compared with: the untrained loss, or the improvement so far."""
        return max(abs(self.untrained), self.untrained - self.best, 1e-12)

    @property
    def improvement(self) -> float:
        """How far the best level is below the untrained loss; at least 0."""
        return max(0.0, self.untrained - self.best)

    @cached_property
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

    @cached_property
    def has_risen(self) -> bool:
        """Whether the loss was above the untrained one, by 5% and more than chance, in most of a tenth of the run."""
        may_have = self._losses.means > self.untrained + 0.05 * abs(self.untrained)
        if 2 * np.count_nonzero(may_have) < _bins_of(self._losses, 2 * self.width):
            return False  # too few for a median that is higher
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
        return cls(history, width)


def _levels(bins: Binned, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle steps and the medians of parts of at least `width` steps each; steps left over are left out."""
    size = -(-width // bins.width)
    means, steps = bins.means, bins.steps
    parts = max(1, len(means) // size)
    size = min(size, len(means))
    means, steps = (values[: parts * size].reshape(parts, size) for values in (means, steps))
    means = np.sort(means, axis=1)  # NumPy's own median and quantile take ten times as long for so few values
    return steps.mean(axis=1), (means[:, (size - 1) // 2] + means[:, size // 2]) / 2


def _highest(bins: Binned, width: int) -> tuple[float, float]:
    """Return the highest median of any parts of about `width` steps in a row, and the middle step there."""
    size, means = _bins_of(bins, width), bins.means
    if len(means) < size:
        return -np.inf, 0.0
    medians = np.median(np.lib.stride_tricks.sliding_window_view(means, size), axis=1)
    at = int(medians.argmax())
    return float(medians[at]), float(bins.steps[at : at + size].mean())


def _bins_of(bins: Binned, width: int) -> int:
    """Return the number of bins of about so many steps."""
    return max(1, width // bins.width)


def _median(losses: np.ndarray) -> float:
    some = np.sort(losses[~np.isnan(losses)])
    return _quantile(some, 0.5) if len(some) else float("nan")


def _quantile(ordered: np.ndarray, share: float) -> float:
    """Return the value below which a share of them lies, of values in order; infinite ones make no NaN."""
    place = share * (len(ordered) - 1)
    low, high = float(ordered[int(place)]), float(ordered[math.ceil(place)])
    return low if low == high else low + (high - low) * (place - int(place))

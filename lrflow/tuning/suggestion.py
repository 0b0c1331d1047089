"""Suggest an LR from a range test: rules that read the loss against the LR, their consensus and its confidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from lrflow.schedules.time import Floats

BANDWIDTH = 0.15  # of the smoothing kernel, in decades: wider than the noise of a batch, narrower than a cliff
INITIAL_SHARE = 0.1  # share of a sweep, at its low end; the initial loss is measured there
MIN_POINTS = 20  # fewer are not analysed
NOISE_SIGMAS = 4.0  # standard deviations; smaller changes of the loss count as noise
RESAMPLES = 400  # of the bootstrap
CONFIDENCE = 0.9  # of the interval
MAX_WIDTH = 1.0  # decades; a wider interval means that the sweeps disagree


@dataclass(frozen=True)
class Suggestion:
    """The LR that a range test suggests.

    Args:
        lr: the rule `halfway`, applied to the mean of all sweeps.
        interval: 90% confidence interval of `lr` over repetitions of the sweeps; at least one step of the LR to either
            side.
        marks: the LR of each rule, applied to the mean.
        ceiling: the LR at which the mean diverges; None: it does not.
        doubts: why the suggestion should not be trusted, one sentence each; empty: it can be trusted.
    """

    lr: float
    interval: tuple[float, float]
    marks: dict[str, float]
    ceiling: float | None
    doubts: tuple[str, ...]

    @property
    def confident(self) -> bool:
        """Whether there is no doubt."""
        return not self.doubts


def suggest_lr(
    rates: Floats, losses: Floats, seed: int = 0, name: str = "the loss", more_is_better: bool = False
) -> Suggestion:
    """Suggest an LR from the sweeps of a range test.

    The rules are applied to the mean of the sweeps, up to the step at which half of them have diverged. The interval
    comes from resampling the sweeps (bootstrap; Efron, 1979), with quantiles corrected for the small number of sweeps.

    Args:
        rates: LRs, rising by equal factors; [n].
        losses: of each sweep; [sweeps, n], not finite after a divergence.
        seed: of the resampling.
        name: of the metric, for the doubts.
        more_is_better: whether higher values of the metric are better.

    Raises:
        ValueError: the sweeps diverge after too few points.
    """
    losses = -losses if more_is_better else losses
    ends = np.array([divergence(rates, sweep) for sweep in losses])
    end = int(np.median(ends))
    if end < MIN_POINTS:
        raise ValueError(f"{name} diverges within the first steps of the range")
    known = np.where(np.arange(len(rates)) < ends[:, None], losses, np.nan)[:, :end]
    mean = _mean(known)
    marks = {name: rule(rates[:end], mean) for name, rule in RULES.items()}
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(known), size=(RESAMPLES if len(known) > 1 else 0, len(known)))
    resampled = [halfway(rates[:end], _mean(known[draw])) for draw in draws]
    tail = _tail(len(known)) if resampled else 0.0
    low, high = np.quantile(resampled or [marks["halfway"]], [tail, 1 - tail])
    step = float(rates[1] / rates[0])  # the interval cannot be finer than the steps between the LRs
    interval = (float(min(low, marks["halfway"] / step)), float(max(high, marks["halfway"] * step)))
    ceiling = float(rates[end]) if end < len(rates) else None
    doubts = _doubts(rates, mean, interval, ceiling, len(known), name, more_is_better)
    return Suggestion(marks["halfway"], interval, marks, ceiling, tuple(doubts))


def compare_with_interval(lr: float, interval: tuple[float, float], ceiling: float | None) -> str:
    """Return where a configured LR lies relative to the interval and to the divergence, as a clause.

    Args:
        lr: the configured one.
        interval: of the suggestion.
        ceiling: the LR at which the loss diverged; None: it did not.
    """
    low, high = interval
    if ceiling is not None and lr >= ceiling:
        return f"{lr:.3g} is {lr / ceiling:.2g} times the LR at which the loss diverged"
    if lr > high:
        return f"{lr:.3g} is {lr / high:.2g} times the top of the interval"
    if lr < low:
        return f"{lr:.3g} is {low / lr:.2g} times below the interval"
    return f"{lr:.3g} lies in the interval"


def halfway(rates: Floats, losses: Floats) -> float:
    """Return the geometric mean of the LR at which the loss falls fastest and the LR at which it is lowest.

    Of all rules it is nearest to the LR that trains best: the steepest point is too low, above all for Adam and its
    variants, and the lowest point too high, because the divergence begins there. docs/find.md has the measurements.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    values, slopes = smooth(rates, losses)
    bottom = int(np.argmin(values))
    return float(np.sqrt(rates[np.argmin(slopes[: bottom + 1])] * rates[bottom]))


def steepest(rates: Floats, losses: Floats) -> float:
    """Return the LR at which the loss falls fastest over the logarithm of the LR, before its lowest point.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    values, slopes = smooth(rates, losses)
    return float(rates[np.argmin(slopes[: np.argmin(values) + 1])])


def lowest(rates: Floats, losses: Floats) -> float:
    """Return the LR at which the loss is lowest.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    return float(rates[np.argmin(smooth(rates, losses)[0])])


def tenth(rates: Floats, losses: Floats) -> float:
    """Return a tenth of the LR at which the loss is lowest (fastai's `minimum`).

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    return lowest(rates, losses) / 10


def valley(rates: Floats, losses: Floats) -> float:
    """Return a point halfway down the longest fall of the loss (fastai's `valley`).

    The fall is the longest decreasing subsequence of the losses; the point lies half of the way from its start to its
    end. fastai (2.8) computes the start as the end minus the length, as if the points of the subsequence were
    adjacent; this function uses its true start.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    values = smooth(rates, losses)[0]
    lengths, previous = np.ones(len(values), int), np.full(len(values), -1)
    for index in range(1, len(values)):
        above = np.flatnonzero(values[:index] > values[index])
        if above.size:
            longest = above[np.argmax(lengths[above])]
            lengths[index], previous[index] = lengths[longest] + 1, longest
    end = start = int(np.argmax(lengths))
    while previous[start] >= 0:
        start = int(previous[start])
    third = (end - start) / 3
    return float(rates[start + int(third) + int(third / 2)])


def slide(rates: Floats, losses: Floats, window: float = 0.5, tolerance: float = 0.05) -> float:
    """Return the LR at which a window that slides down from the divergence first lies flat (after fastai's `slide`).

    The window is flat once the slopes at both its ends are nearly equal. fastai's window is 15 points and its tolerance
    0.005 of the loss itself; here they are in decades and a share of the steepest slope, so that neither the number of
    points nor the scale of the loss matters.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
        window: in decades.
        tolerance: allowed difference of the slopes, as a share of the steepest.
    """
    slopes = smooth(rates, losses)[1]
    position = np.log10(rates)
    allowed = tolerance * float(np.abs(slopes).max())
    right = len(slopes) - 1
    left = int(np.searchsorted(position, position[right] - window))
    while left > 0 and abs(slopes[right] - slopes[left]) > allowed:
        right -= 1
        left = int(np.searchsorted(position, position[right] - window))
    return float(rates[left])


RULES: dict[str, Callable[[Floats, Floats], float]] = {
    "halfway": halfway,
    "steepest": steepest,
    "tenth": tenth,
    "valley": valley,
    "slide": slide,
}
"""Functions of LRs [n] and losses [n] before the divergence, each of which returns an LR."""


def smooth(rates: Floats, losses: Floats) -> tuple[Floats, Floats]:
    """Return the loss and its slope, by local linear regression over the logarithm of the LR.

    The running mean of other range tests lags: it moves every mark to the right, by decades if its window is long. A
    line fitted around each point does not lag, even at the ends, and yields the slope as well (Cleveland, 1979; here
    with a Gaussian kernel). A constant loss is returned exactly.

    Args:
        rates: LRs, rising; [n].
        losses: [n], finite.

    Returns:
        (losses [n], slopes [n] in loss per decade).
    """
    position = np.log10(rates)
    distance = position[None, :] - position[:, None]
    weights = np.exp(-0.5 * (distance / BANDWIDTH) ** 2)
    total, first, second = weights.sum(1), (weights * distance).sum(1), (weights * distance**2).sum(1)
    centre = losses[losses.size // 2]  # subtracted, so that a large offset costs no precision
    level, tilt = (weights * (losses - centre)).sum(1), (weights * distance * (losses - centre)).sum(1)
    spread = total * second - first**2
    # An isolated point has no neighbours within the bandwidth, and therefore no slope.
    isolated = spread <= 1e-12 * total**2 * BANDWIDTH**2
    spread = np.where(isolated, 1.0, spread)
    values = np.where(isolated, level / total, (second * level - first * tilt) / spread)
    return values + centre, np.where(isolated, 0.0, (total * tilt - first * level) / spread)


def divergence(rates: Floats, losses: Floats) -> int:
    """Return the number of points of a sweep before it diverges; all of them if it does not.

    A sweep diverges at the first loss that is not finite, or at the first point where the smoothed loss exceeds the
    initial loss by more than it had fallen below it, and by more than noise. This depends neither on the sign nor on
    the scale of the loss.

    Args:
        rates: LRs, rising; [n].
        losses: [n].
    """
    finite = np.isfinite(losses)
    count = len(losses) if finite.all() else int(np.argmin(finite))
    if count < MIN_POINTS:
        return count
    rates, losses = rates[:count], losses[:count]
    values, _ = smooth(rates, losses)
    head, initial, noise = _initial_loss(losses, values)
    fallen = initial - np.minimum.accumulate(values)
    above = values > initial + np.maximum(fallen, noise)
    # Single losses explode before the smoothed curve does.
    above |= losses > initial + 10 * np.maximum(fallen, noise)
    above[:head] = False
    return int(np.argmax(above)) if above.any() else count


def _initial_loss(losses: Floats, values: Floats) -> tuple[int, float, float]:
    """Return the number of points before the model learns anything, their median loss, and the size of the noise."""
    head = max(MIN_POINTS // 2, int(INITIAL_SHARE * len(losses)))
    lower = max(MIN_POINTS, len(losses) // 2)  # the lower half of the range: enough points to estimate the noise
    noise = NOISE_SIGMAS * float(np.std(losses[:lower] - values[:lower])) + 1e-9 * abs(float(values[0]))
    return head, float(np.median(losses[:head])), noise


def _mean(sweeps: Floats) -> Floats:
    """Return the mean over the sweeps that are finite at each point; if none is, the mean of the point before."""
    finite = np.isfinite(sweeps)
    count = finite.sum(0)
    mean = np.where(finite, sweeps, 0.0).sum(0) / np.maximum(count, 1)
    last = np.maximum.accumulate(np.where(count > 0, np.arange(len(mean)), 0))
    return mean[last]


def _tail(sweeps: int) -> float:
    """Return the share of the resamples beyond each end of the interval.

    The bootstrap underestimates the spread of the mean of few sweeps. The quantiles are therefore taken further out, by
    Student's t (Hesterberg, 2015, arXiv:1411.5279: the expanded percentile interval). For two or three sweeps the
    interval spans all of their own suggestions.
    """
    quantile = stdtrit(sweeps - 1, (1 - CONFIDENCE) / 2) * np.sqrt(sweeps / (sweeps - 1))
    return float(ndtr(quantile))


def _doubts(
    rates: Floats,
    mean: Floats,
    interval: tuple[float, float],
    ceiling: float | None,
    sweeps: int,
    name: str,
    more_is_better: bool,
) -> list[str]:
    """Return why a suggestion should not be trusted."""
    falls, rises = ("rises", "falls") if more_is_better else ("falls", "rises")
    values, _ = smooth(rates[: len(mean)], mean)
    head, initial, noise = _initial_loss(mean, values)
    fall = initial - float(values.min())
    doubts = []
    if fall <= noise:
        doubts.append(f"{name} never {falls} by more than its noise ({fall:.3g} against {noise:.3g})")
    if sweeps < 2:
        doubts.append("one sweep does not show how much sweeps differ")
    width = np.log10(interval[1] / interval[0])
    if width > MAX_WIDTH:
        doubts.append(f"the sweeps disagree: their LRs span {width:.1f} decades")
    low = int(np.argmin(values))
    if ceiling is None and low >= len(values) - 3:
        doubts.append(f"{name} still {falls} at the highest LR, {rates[-1]:.3g}: the range ends too low")
    if low < head:
        doubts.append(f"{name} {rises} from the lowest LR on, {rates[0]:.3g}: the range starts too high")
    return doubts

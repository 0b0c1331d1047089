"""Reading a range test: from the loss against a rising learning rate to the rate to train with, and how sure it is.

Rules: what each makes of the loss against a rising learning rate, up to where it diverges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

Floats = npt.NDArray[np.float64]

BANDWIDTH = 0.15  # of the smoothing kernel, in decades: wider than the noise of a batch, narrower than a cliff
START = 0.1  # share of a sweep, at its low end, that says what the loss is before anything was learned
FEWEST = 20  # points from which anything is concluded
NOISE = 4.0  # standard deviations by which a loss has to rise or fall to be no noise


def smooth(rates: Floats, losses: Floats) -> tuple[Floats, Floats]:
    """The loss and its slope by local linear regression over the logarithm of the LR.

    A running mean, as other range tests have it, follows late and so moves every mark to the right, by decades where
    it is long. A line fitted around each point does not, also at the ends, and its slope comes with it (Cleveland,
    1979; here with a Gaussian kernel). A constant loss stays that constant.

    Args:
        rates: LRs, rising; [n].
        losses: [n], finite.

    Returns:
        (losses [n], slopes [n] in loss a decade).
    """
    position = np.log10(rates)
    away = position[None, :] - position[:, None]
    weights = np.exp(-0.5 * (away / BANDWIDTH) ** 2)
    total, first, second = weights.sum(1), (weights * away).sum(1), (weights * away**2).sum(1)
    centre = losses[losses.size // 2]  # taken out, so that a large offset costs no digits
    level, tilt = (weights * (losses - centre)).sum(1), (weights * away * (losses - centre)).sum(1)
    spread = total * second - first**2
    # Points so far apart that each stands alone have no slope.
    alone = spread <= 1e-12 * total**2 * BANDWIDTH**2
    spread = np.where(alone, 1.0, spread)
    values = np.where(alone, level / total, (second * level - first * tilt) / spread)
    return values + centre, np.where(alone, 0.0, (total * tilt - first * level) / spread)


def divergence(rates: Floats, losses: Floats) -> int:
    """How many points of a sweep lie before it diverges; all of them where it does not.

    It has diverged where a loss is not finite, or where the smoothed loss stands above its start by more than it had
    fallen below it, and by more than noise. Nothing of that depends on the loss's sign or scale.

    Args:
        rates: LRs, rising; [n].
        losses: [n].
    """
    finite = np.isfinite(losses)
    count = len(losses) if finite.all() else int(np.argmin(finite))
    if count < FEWEST:
        return count
    rates, losses = rates[:count], losses[:count]
    values, _ = smooth(rates, losses)
    head, start, noise = before_learning(losses, values)
    fallen = start - np.minimum.accumulate(values)
    above = values > start + np.maximum(fallen, noise)
    # Growth past bounds is seen in single losses before a smooth curve shows it.
    above |= losses > start + 10 * np.maximum(fallen, noise)
    above[:head] = False
    return int(np.argmax(above)) if above.any() else count


def before_learning(losses: Floats, values: Floats) -> tuple[int, float, float]:
    """How many points are before anything was learned, the loss there, and what of its changes may be noise."""
    head = max(FEWEST // 2, int(START * len(losses)))
    quiet = max(FEWEST, len(losses) // 2)  # the lower half of the range: enough points to tell the noise from
    noise = NOISE * float(np.std(losses[:quiet] - values[:quiet])) + 1e-9 * abs(float(values[0]))
    return head, float(np.median(losses[:head])), noise


def steepest(rates: Floats, losses: Floats) -> float:
    """The LR at which the loss falls fastest against the logarithm of the LR, before its lowest point.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    values, slopes = smooth(rates, losses)
    return float(rates[np.argmin(slopes[: np.argmin(values) + 1])])


def lowest(rates: Floats, losses: Floats) -> float:
    """The LR at which the loss is lowest.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    return float(rates[np.argmin(smooth(rates, losses)[0])])


def tenth(rates: Floats, losses: Floats) -> float:
    """A tenth of the LR at which the loss is lowest (fastai's `minimum`).

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    return lowest(rates, losses) / 10


def valley(rates: Floats, losses: Floats) -> float:
    """A point halfway down the longest fall of the loss (fastai's `valley`).

    The fall is the longest subsequence in which each loss is below the one before; the point lies at
    a third of its points and half of a third. fastai (2.8) takes for its start the end less its length, as though its
    points were neighbours; this is its true start.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    values = smooth(rates, losses)[0]
    lengths, before = np.ones(len(values), int), np.full(len(values), -1)
    for index in range(1, len(values)):
        above = np.flatnonzero(values[:index] > values[index])
        if above.size:
            best = above[np.argmax(lengths[above])]
            lengths[index], before[index] = lengths[best] + 1, best
    end = start = int(np.argmax(lengths))
    while before[start] >= 0:
        start = int(before[start])
    third = (end - start) / 3
    return float(rates[start + int(third) + int(third / 2)])


def slide(rates: Floats, losses: Floats, window: float = 0.5, tolerance: float = 0.05) -> float:
    """Where a window that slides down from the divergence first lies flat (after fastai's `slide`).

    It stops where the slopes at both its ends are alike. fastai's window is 15 points and its tolerance 0.005 of
    the loss itself; here they are decades and a share of the steepest slope, so that neither the number of points nor
    the scale of the loss matters.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
        window: in decades.
        tolerance: difference of the slopes, as a share of the steepest.
    """
    slopes = smooth(rates, losses)[1]
    position = np.log10(rates)
    alike = tolerance * float(np.abs(slopes).max())
    right = len(slopes) - 1
    left = int(np.searchsorted(position, position[right] - window))
    while left > 0 and abs(slopes[right] - slopes[left]) > alike:
        right -= 1
        left = int(np.searchsorted(position, position[right] - window))
    return float(rates[left])


def halfway(rates: Floats, losses: Floats) -> float:
    """Halfway, in the logarithm, between where the loss falls fastest and where it is lowest.

    Of what a sweep shows it lies nearest to the LR that trains best: the steepest point is early, above all for Adam's
    kin, and the lowest is late, since there the divergence begins. What was measured stands in docs/find.md.

    Args:
        rates: LRs before the divergence; [n].
        losses: [n].
    """
    values, slopes = smooth(rates, losses)
    bottom = int(np.argmin(values))
    return float(np.sqrt(rates[np.argmin(slopes[: bottom + 1])] * rates[bottom]))


RULES: dict[str, Callable[[Floats, Floats], float]] = {
    "halfway": halfway,
    "steepest": steepest,
    "tenth": tenth,
    "valley": valley,
    "slide": slide,
}
"""Each from LRs [n] and losses [n] before the divergence to an LR."""


RESAMPLES = 400  # of the bootstrap
CONFIDENCE = 0.9  # of the interval
TOO_WIDE = 1.0  # decades between which an answer is none


@dataclass(frozen=True)
class Reading:
    """What a range test says.

    Args:
        lr: the consensus: the rule `halfway` on the mean of all sweeps.
        interval: in which it lies over other sweeps, with 90% confidence; at least a step of the LR to either side.
        marks: the LR that each rule gives on the mean.
        ceiling: where the mean diverges; None: nowhere on the range.
        doubts: why the answer is not to be trusted, each a sentence; none: it is.
    """

    lr: float
    interval: tuple[float, float]
    marks: dict[str, float]
    ceiling: float | None
    doubts: tuple[str, ...]

    @property
    def confident(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.doubts


def read_range_test(
    rates: Floats, losses: Floats, seed: int = 0, name: str = "the loss", more_is_better: bool = False
) -> Reading:
    """Read the sweeps of a range test.

    The sweeps are averaged up to the step where half of them have diverged, and read as one; how far the answer would
    move with other sweeps is told by drawing as many of them anew, with replacement, many times (the bootstrap; Efron,
    1979), with quantiles that make up for how few they are.

    Args:
        rates: LRs, rising by equal factors; [n].
        losses: of each sweep; [sweeps, n], not finite after a divergence.
        seed: of the resampling.
        name: what was read, for the doubts.
        more_is_better: rather than less.

    Raises:
        ValueError: the sweeps diverge before there are enough points to tell anything from.
    """
    losses = -losses if more_is_better else losses
    ends = np.array([divergence(rates, sweep) for sweep in losses])
    end = int(np.median(ends))
    if end < FEWEST:
        raise ValueError(f"{name} diverges within the first steps of the range")
    known = np.where(np.arange(len(rates)) < ends[:, None], losses, np.nan)[:, :end]
    mean = _mean(known)
    marks = {name: rule(rates[:end], mean) for name, rule in RULES.items()}
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(known), size=(RESAMPLES if len(known) > 1 else 0, len(known)))
    found = [halfway(rates[:end], _mean(known[draw])) for draw in draws]
    tail = _tail(len(known)) if found else 0.0
    low, high = np.quantile(found or [marks["halfway"]], [tail, 1 - tail])
    grain = float(rates[1] / rates[0])  # no answer is finer than the steps between the LRs
    interval = (float(min(low, marks["halfway"] / grain)), float(max(high, marks["halfway"] * grain)))
    ceiling = float(rates[end]) if end < len(rates) else None
    doubts = _doubts(rates, mean, interval, ceiling, len(known), name, more_is_better)
    return Reading(marks["halfway"], interval, marks, ceiling, tuple(doubts))


def judge_lr(lr: float, interval: tuple[float, float], ceiling: float | None) -> str:
    """Where an LR lies in what was found, in words.

    Args:
        lr: that was chosen.
        interval: that was found.
        ceiling: where the loss diverged; None: nowhere.
    """
    low, high = interval
    if ceiling is not None and lr >= ceiling:
        return f"{lr:.3g} is {lr / ceiling:.2g} times the LR at which the loss diverged"
    if lr > high:
        return f"{lr:.3g} is {lr / high:.2g} times the top of the interval"
    if lr < low:
        return f"{lr:.3g} is {low / lr:.2g} times below the interval"
    return f"{lr:.3g} lies in the interval"


def _mean(sweeps: Floats) -> Floats:
    """Over those sweeps that are still there at each point; the last mean where none is."""
    there = np.isfinite(sweeps)
    count = there.sum(0)
    mean = np.where(there, sweeps, 0.0).sum(0) / np.maximum(count, 1)
    last = np.maximum.accumulate(np.where(count > 0, np.arange(len(mean)), 0))
    return mean[last]


def _tail(sweeps: int) -> float:
    """The share of the resamples beyond each end of the interval.

    The means of few sweeps scatter less among resamples than they do in truth: the quantiles are taken further out, as
    Student's t asks for (Hesterberg, 2015, arXiv:1411.5279: the expanded percentile interval). Of two or three sweeps
    that is from the lowest of their own answers to the highest.
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
    falls, rises = ("rises", "falls") if more_is_better else ("falls", "rises")
    values, _ = smooth(rates[: len(mean)], mean)
    head, start, noise = before_learning(mean, values)
    fall = start - float(values.min())
    doubts = []
    if fall <= noise:
        doubts.append(f"{name} never {falls} by more than its noise ({fall:.3g} against {noise:.3g})")
    if sweeps < 2:
        doubts.append("one sweep cannot tell how far another would have answered")
    width = np.log10(interval[1] / interval[0])
    if width > TOO_WIDE:
        doubts.append(f"the sweeps do not agree: {width:.1f} decades lie between their answers")
    low = int(np.argmin(values))
    if ceiling is None and low >= len(values) - 3:
        doubts.append(f"{name} still {falls} at the highest LR, {rates[-1]:.3g}: the range ends too early")
    if low < head:
        doubts.append(f"{name} {rises} from the lowest LR on, {rates[0]:.3g}: the range starts too late")
    return doubts

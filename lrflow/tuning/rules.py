"""Rules: what each makes of the loss against a rising learning rate, up to where it diverges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

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

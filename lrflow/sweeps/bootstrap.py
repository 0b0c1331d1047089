"""How much the best LR of a sweep depends on the seeds: a bootstrap over the runs at each LR."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

SAMPLES = 200
"""Number of resampled sweeps."""

LEVEL = 0.9
"""Share of the resampled sweeps whose best LR is in the interval."""


def interval_over_seeds(
    costs: Mapping[float, Sequence[float]], best: Callable[[Mapping[float, float]], float]
) -> tuple[float, float] | None:
    """Return the positions between which the best position lies if the runs at each position are drawn again.

    At each position as many runs are drawn with replacement as there are, independently of the other positions (Efron,
    1979). Deviations from the mean are multiplied by sqrt(n / (n - 1)), without which the spread of few runs is too
    small (Davison and Hinkley, 1997, section 2.3).

    Args:
        costs: of the runs at each position; a run that diverged has an infinite one.
        best: returns the best position of mean costs by position.

    Returns:
        the ends of the interval; None: fewer than two positions have a finite mean and two or more runs, so that there
        is nothing to compare, or a third or more of those with a finite mean have a single run.
    """
    finite = {position: np.array([cost for cost in given if math.isfinite(cost)]) for position, given in costs.items()}
    kept = {position: values for position, values in finite.items() if 2 * len(values) > len(costs[position])}
    repeated = sum(len(values) > 1 for values in kept.values())
    if repeated < 2 or 3 * (len(kept) - repeated) >= len(kept):
        return None
    random = np.random.default_rng(0)
    drawn = {position: np.full(SAMPLES, math.inf) for position in costs}
    for position, values in kept.items():
        count, mean = len(values), float(values.mean())
        means = random.choice(values, (SAMPLES, count)).mean(axis=1)
        drawn[position] = mean + math.sqrt(count / max(1, count - 1)) * (means - mean)
    found = [best({position: float(means[at]) for position, means in drawn.items()}) for at in range(SAMPLES)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

"""What theory says of a schedule: the bound of the last iterate, and how the best LR depends on the schedule.

For a convex loss and stochastic gradients of norm at most G, SGD from a distance D to the minimum with the LRs g eta_k
is, after its last step, no further above the minimum than

    D² / (2 g S_1) + G² g / 2 [Q_1 / S_1 + sum_k<T eta_k / S_(k+1) x Q_k / S_k]

with the tail sums S_k = eta_k + ... + eta_T and Q_k = eta_k² + ... + eta_T² (Defazio et al., 2023, arXiv 2310.07831,
theorem 10). The losses of networks follow it closely, though they are not convex (Schaipp et al., 2025, arXiv
2501.18965).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrflow.imports import np
from lrflow.schedules.curve import Curve
from lrflow.schedules.decays import Linear
from lrflow.schedules.schedule import Schedule
from lrflow.schedules.time import Floats, Horizon

MOST_STEPS = 1_000_000
"""Steps at which a curve is evaluated: of a longer run, those of its second half are its last steps."""


@dataclass(frozen=True)
class LastIterate:
    """The bound of the last iterate under a schedule whose base LR is the best for it.

    Args:
        bound: the lowest bound, in units of D G.
        best_lr: the base LR with this bound, in units of D / G.
    """

    bound: float
    best_lr: float


def last_iterate(multipliers: Floats, counts: Floats | float = 1.0) -> LastIterate | None:
    """Return the lowest bound that any base LR gives, and that base LR; None for a curve that is 0 throughout.

    Steps at the end whose multiplier is 0 change no weight and are left out.

    Args:
        multipliers: multiplier of the base LR at each step [T], at least 0.
        counts: how many steps each of them stands for [T]; with 1 for each the bound is exact.
    """
    eta = np.trim_zeros(np.asarray(multipliers, dtype=np.float64), "b")
    if not eta.size:
        return None
    moved = eta * np.broadcast_to(counts, np.shape(multipliers))[: eta.size]
    sums, squares = (np.cumsum(values[::-1])[::-1] for values in (moved, moved * eta))
    means = squares / sums
    noise = float(means[0] + np.sum(moved[:-1] / sums[1:] * means[:-1]))
    total = float(sums[0])
    return LastIterate(math.sqrt(noise / total), 1 / math.sqrt(noise * total))


def last_iterate_of(curve: Curve, horizon: Horizon) -> LastIterate | None:
    """Return the same for a curve over a run; None for a curve that is 0 throughout."""
    steps = horizon.steps
    if steps <= MOST_STEPS:
        return last_iterate(curve(np.arange(steps), horizon))
    # The last steps count one by one, as S_k is small there; each of the others stands for as many as lie around it.
    half = MOST_STEPS // 2
    edges = np.linspace(0, steps - half, half + 1).round()
    counts = np.concatenate([np.diff(edges), np.ones(half)])
    at = np.concatenate([np.floor((edges[:-1] + edges[1:]) / 2), np.arange(steps - half, steps)])
    return last_iterate(curve(at, horizon), counts)


def relative_bound(curve: Curve, horizon: Horizon) -> float | None:
    """Return the bound relative to that of a linear decay to zero over as many steps; None for a curve of zeros.

    No schedule has a better rate in the worst case than this decay (arXiv 2310.07831).
    """
    found, linear = last_iterate_of(curve, horizon), last_iterate_of(Schedule(Linear()), horizon)
    return found.bound / linear.bound if found and linear else None


@dataclass(frozen=True)
class BestLRRatio:
    """The best LR of one run over that of another, by theory.

    Args:
        schedule: the part of the ratio that the forms of the schedules make.
        length: the part that the lengths make: the root of their inverse ratio.
    """

    schedule: float
    length: float

    @property
    def total(self) -> float:
        """The ratio of the best LRs."""
        return self.schedule * self.length


def best_lr_ratio(after: tuple[Curve, Horizon], before: tuple[Curve, Horizon]) -> BestLRRatio | None:
    """Return the best LR under one schedule over the best LR under another; None if one of them is 0 throughout.

    Args:
        after: a schedule and the length of its run.
        before: the schedule whose best LR is known, and the length of its run.
    """
    now, then = last_iterate_of(*after), last_iterate_of(*before)
    if now is None or then is None:
        return None
    length = math.sqrt(before[1].steps / after[1].steps)
    return BestLRRatio(now.best_lr / then.best_lr / length, length)

"""The multi-power law: the loss after each step of a run as a function of its learning rates (Luo et al., 2025).

    loss(n) = L0 + A S(n)^-alpha + B sum_k (lr_k - lr_{k-1}) G(lr_k^-gamma S_k(n)),    G(x) = 1 - (1 + C x)^-beta

S(n) is the sum of the learning rates of the first n steps, and S_k(n) of those from step k on: training time is counted
by learning rate. The sum over k is the effect of each change of the LR, which takes time to unfold: a fall of the LR
lowers the loss, a rise raises it. Before the first step the LR is 0, so a start without warmup counts as a rise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np

from lrflow.schedules.time import Floats

_CELLS = 1 << 18  # points times changes that are evaluated at once: their arrays then fit the processor's cache
_LOWEST = 1e-9  # LR as a fraction of the highest one, below which its effect unfolds at once


@dataclass(frozen=True)
class RateCurve:
    """The learning rates of a run, with what the law needs of them.

    Args:
        rates: LR of each step; [steps], float64.
        total: `total[n]` is the sum of the rates of the first n steps; [steps + 1].
        at: the step of each change of the LR; [changes], int64. Neighbouring changes may be one: see `merged`.
        by: how much it changes; [changes].
        to: the LR that it changes to; [changes].
        since: `total` before the step of the change; [changes].
    """

    rates: Floats
    total: Floats
    at: np.ndarray
    by: Floats
    to: Floats
    since: Floats

    @classmethod
    def of(cls, rates: Floats) -> RateCurve:
        """Return the curve of an array of rates, with every change of the LR."""
        rates = np.asarray(rates, np.float64)
        if rates.ndim != 1 or not rates.size or not np.isfinite(rates).all() or rates.min() < 0 or rates.max() == 0:
            raise ValueError("expected an array of finite learning rates that are not negative, and not all of them 0")
        total = np.concatenate([[0.0], np.cumsum(rates)])
        by = np.diff(rates, prepend=0.0)
        at = np.flatnonzero(by)
        return cls(rates, total, at, by[at], np.maximum(rates[at], _LOWEST * rates.max()), total[at])

    def merged(self, points: np.ndarray, limit: int = 256) -> RateCurve:
        """Return the curve with at most about `limit` changes: neighbours are one change, at their weighted mean.

        Args:
            points: numbers of steps at which the law is evaluated; changes before and after one are not merged.
            limit: number of stretches of which each holds one change, besides those that the points divide.
        """
        if len(self.at) <= limit:
            return self
        # Stretches are equal in the path of the LR, not in steps, so that a short cooldown is divided as finely.
        path = np.cumsum(np.abs(self.by))
        stretch = np.minimum((path / path[-1] * limit).astype(np.int64), limit - 1)
        part = np.searchsorted(np.sort(points), self.at, side="right")
        # Rises and falls are not merged: what they do to the loss would cancel before it has unfolded.
        starts = np.flatnonzero(np.diff(stretch) | np.diff(part) | np.diff(self.by > 0)) + 1
        starts = np.concatenate([[0], starts])
        by = np.add.reduceat(self.by, starts)
        to, since = (np.add.reduceat(self.by * values, starts) / by for values in (self.to, self.since))
        return RateCurve(self.rates, self.total, self.at[starts], by, to, since)


@dataclass(frozen=True)
class LossLaw:
    """The multi-power law with its seven parameters, in the units of the paper (Luo et al., ICLR 2025, 2503.12811).

    With gamma = 0 its last term is the noise term of the functional scaling law (Li et al., NeurIPS 2025, 2509.19189)
    for noise of constant strength: by summation by parts it is B times the integral of lr(s) G'(S(n) - s) over s, the
    training time counted by learning rate, with the kernel G'(x) = beta C (1 + C x)^-(1 + beta).

    Args:
        L0: the loss that endless training approaches.
        A: factor of the power of the sum of the LRs.
        alpha: exponent of this sum.
        B: loss per LR: how much a fall of the LR lowers the loss in the end.
        C: how fast the effect of a change unfolds.
        beta: exponent by which it unfolds.
        gamma: exponent of the LR by which it unfolds faster at a lower LR.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    @classmethod
    def of(cls, values: Floats) -> LossLaw:
        """Return the law of an array of its parameters, in the order of the fields."""
        return cls(*map(float, values))

    @property
    def values(self) -> Floats:
        """The parameters in the order of the fields; [7]."""
        return np.array([getattr(self, field.name) for field in fields(self)])

    def as_dict(self) -> dict[str, float]:
        """Return the parameters by name."""
        return asdict(self)

    def loss(self, curve: RateCurve | Floats, after: np.ndarray | None = None) -> Floats:
        """Return the loss after given numbers of steps.

        The cost grows with the number of points times that of changes of the LR: `spread` gives points of a long run.

        Args:
            curve: the LRs, of each step from the first one.
            after: numbers of steps, from 1 to the length of the curve; [n]. None: after each step.

        Returns:
            [n], float64.
        """
        curve = curve if isinstance(curve, RateCurve) else RateCurve.of(curve)
        after = np.arange(1, len(curve.rates) + 1) if after is None else np.asarray(after)
        return self.L0 + self.A * curve.total[after] ** -self.alpha + self.B * self.unfolded(curve, after)

    def unfolded(self, curve: RateCurve, after: np.ndarray) -> Floats:
        """Return the sum over the changes of the LR before each point, each times the share that has unfolded; [n]."""
        speed = self.C * curve.to**-self.gamma
        found = np.empty(len(after))
        rows = max(1, _CELLS // max(len(curve.at), 1))
        for start in range(0, len(after), rows):
            points = after[start : start + rows]
            seen = int(np.searchsorted(curve.at, points.max()))
            time = np.maximum(curve.total[points][:, None] - curve.since[:seen], 0.0)
            share = -np.expm1(-self.beta * np.log1p(speed[:seen] * time))
            share[curve.at[:seen] >= points[:, None]] = 0.0
            found[start : start + rows] = share @ curve.by[:seen]
        return found


def spread(first: int, last: int, count: int) -> np.ndarray:
    """Return about `count` numbers of steps from `first` to `last`, both included, in equal distances."""
    return np.unique(np.linspace(first, last, max(2, min(count, last - first + 1))).round().astype(np.int64))

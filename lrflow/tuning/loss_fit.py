"""Fit the multi-power law to the losses of runs, and predict other runs with a band of uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.optimize import OptimizeResult, least_squares, nnls

from lrflow.config.schemas.task import LAWS
from lrflow.schedules.time import Floats
from lrflow.tuning.loss_law import LossLaw, RateCurve

LEAST_OF_A_RUN = 4
LEAST_POINTS = 16
"""Losses that a fit needs: of each run, and of all runs together."""

LEAST_FALL = 0.1
"""How far the LR has to fall in the runs, as a fraction of the peak, for a fit of what a fall of it does."""

_WIDTH = 1e-3  # of Huber's loss, in log losses, as in the paper; larger where the losses scatter more
_LOW = np.array([0.0, -12.0, 0.05, -12.0, 0.0, 0.05, 0.0])
_HIGH = np.array([np.inf, 6.0, 2.0, 6.0, 16.0, 2.0, 1.2])
_STARTS = tuple(product((0.15, 0.4, 0.8, 1.5), (3.0, 5.0, 7.0, 10.0), (0.6,), (0.0, 0.64)))
"""Values of alpha, log C, beta and gamma, in units of the fit; the other parameters follow linearly."""
_FITTED_STARTS = 4

_EXPECTED, _SPREAD, _PULL = np.array([0.6, 0.64]), 0.2, 10.0
"""Beta and gamma, which one branch hardly determines: the paper found them at 0.58 to 0.60 and 0.63 to 0.66 with models
of 25M, 100M and 400M parameters. The fit is pulled there; for the band they are drawn from a normal distribution."""

_RESAMPLED = 40  # fits to losses with resampled residuals
_BLOCKS = 8  # parts of a run whose residuals are resampled as a whole, since neighbours are alike
_MISFIT = 0.005
"""What the law itself is wrong by at the end of a run it was not fitted to, as a fraction of the loss: the root mean
square over the curves of the paper (`python -m benchmarks.forecast published`)."""
_QUANTILE = 1.645  # of the normal distribution: 5% are above


@dataclass(frozen=True)
class Losses:
    """The losses of one run.

    Args:
        name: of the run, for messages.
        rates: LR of each of its steps from the first one, also of those before it branched off; [steps].
        after: numbers of steps, rising; [n], int64.
        values: the loss after them; [n].
    """

    name: str
    rates: Floats
    after: np.ndarray
    values: Floats

    def averaged(self, width: int) -> Losses:
        """Return the means over stretches of a number of steps, each at the mean of its steps."""
        starts = np.flatnonzero(np.diff((self.after - self.after[:1]) // width, prepend=-1))
        counts = np.diff([*starts, len(self.after)])
        after = np.rint(np.add.reduceat(self.after, starts) / counts).astype(np.int64)
        return replace(self, after=after, values=np.add.reduceat(self.values, starts) / counts)


@dataclass(frozen=True)
class Forecast:
    """The loss that a law predicts, and the band in which 90% of real losses should lie.

    Args:
        after: numbers of steps; [n].
        loss: the predicted loss after them; [n].
        low: lower end of the band; [n].
        high: upper end; [n].
    """

    after: np.ndarray
    loss: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Fit:
    """A law that was fitted to the losses of runs.

    Args:
        law: the best one.
        resampled: laws that fit losses with resampled residuals, for the band.
        scatter: typical size of the residuals, as a fraction of the loss.
        r2: share of the variance of the losses that the law explains.
        points: number of losses.
        peak: highest LR of the runs.
        reach: longest training time of the runs, the sum of their LRs up to the last loss.
    """

    law: LossLaw
    resampled: tuple[LossLaw, ...]
    scatter: float
    r2: float
    points: int
    peak: float
    reach: float

    def predict(self, rates: Floats, after: np.ndarray) -> Forecast:
        """Return the loss that the law predicts after given numbers of steps of a run.

        The band has the uncertainty of the parameters, and what the law is wrong by itself: at least what it was wrong
        by on the curves of its paper.

        Args:
            rates: LR of each step from the first one; [steps].
            after: numbers of steps, from 1; [n].
        """
        curve = RateCurve.of(rates).merged(after)
        best = np.maximum(self.law.loss(curve, after), 1e-12)
        others = np.log(np.maximum([law.loss(curve, after) for law in self.resampled or (self.law,)], 1e-12))
        low, high = np.percentile(others, [5, 95], axis=0)
        misfit = _QUANTILE * max(_MISFIT, self.scatter)
        width = np.exp(np.hypot((high - low) / 2, misfit))
        return Forecast(after, best, best / width, best * width)


def fit_law(runs: Sequence[Losses], law: str = LAWS[0], seed: int = 0, resampled: int = _RESAMPLED) -> Fit:
    """Fit the parameters of a law to the losses of runs, from several starts.

    The residuals are those of log losses and their loss is Huber's, as in the paper.

    Args:
        runs: runs whose LRs and losses are known.
        law: one of `LAWS`.
        seed: of the resampling.
        resampled: number of fits to losses with resampled residuals.

    Raises:
        ValueError: there are too few losses, or the LR hardly falls, so that nothing shows what a fall of it does.
    """
    for run in runs:
        if len(run.after) < LEAST_OF_A_RUN:
            count = len(run.after)
            raise ValueError(f"{run.name} has {count} losses after its warmup, and a fit needs {LEAST_OF_A_RUN}")
    if (count := sum(len(run.after) for run in runs)) < LEAST_POINTS:
        raise ValueError(f"the runs have {count} losses after their warmup, and a fit needs {LEAST_POINTS}")
    seen = np.concatenate([run.rates[run.after - 1] for run in runs])
    peak = max(float(run.rates.max()) for run in runs)
    if seen.max() - seen.min() < LEAST_FALL * peak:
        raise ValueError(f"the LR never falls by {LEAST_FALL:.0%} of its peak, so nothing shows what a fall does")
    problem = _Problem.of(runs, peak, law)
    best = problem.solve()
    residuals = problem.residuals(best)
    generator = np.random.default_rng(seed)
    laws = []
    for _ in range(resampled):
        values = problem.predicted(best) * np.exp(problem.drawn(residuals, generator))
        expected = generator.normal(problem.expected, _SPREAD)
        laws.append(problem.law(replace(problem, values=values, expected=expected).improved(best).x))
    values = problem.values
    unexplained = np.square(values * -np.expm1(-residuals)).sum() / max(np.square(values - values.mean()).sum(), 1e-300)
    scatter = 1.4826 * float(np.median(np.abs(residuals)))
    reach = problem.unit * peak
    return Fit(problem.law(best), tuple(laws), scatter, float(1 - unexplained), len(values), peak, reach)


@dataclass(frozen=True)
class _Problem:
    """The least-squares problem, in units in which the peak and the training time of the longest run are 1.

    Its parameters are L0, log A, alpha, log B, log C, beta and, but for the functional law, gamma.

    Args:
        curves: the LRs of each run, with few changes.
        points: numbers of steps at which each run has losses.
        times: for each run, training time since each change at each point, 0 before the change; [n, changes].
        total: training time at all points of all runs.
        values: the losses there.
        peak: the highest LR.
        unit: training time of the longest run, over the peak.
        width: of Huber's loss.
        expected: beta and gamma to which the fit is pulled; beta alone for the functional law.
    """

    curves: tuple[RateCurve, ...]
    points: tuple[np.ndarray, ...]
    times: tuple[Floats, ...]
    total: Floats
    values: Floats
    peak: float
    unit: float
    width: float
    expected: Floats

    @classmethod
    def of(cls, runs: Sequence[Losses], peak: float, law: str) -> _Problem:
        points = tuple(run.after for run in runs)
        curves = tuple(RateCurve.of(run.rates / peak).merged(run.after, 128) for run in runs)
        totals = [curve.total[at] for curve, at in zip(curves, points, strict=True)]
        unit = float(max(total[-1] for total in totals))
        times = tuple(
            np.where(curve.at < at[:, None], np.maximum(total[:, None] - curve.since, 0.0), 0.0) / unit
            for curve, at, total in zip(curves, points, totals, strict=True)
        )
        # Neighbours differ by their scatter, and hardly by the course of the loss.
        steps = np.concatenate([np.diff(np.log(run.values)) for run in runs])
        scatter = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / 2**0.5
        values, expected = np.concatenate([run.values for run in runs]), _EXPECTED[: 2 if law == LAWS[0] else 1]
        width = max(_WIDTH, 1.345 * scatter)
        return cls(curves, points, times, np.concatenate(totals) / unit, values, peak, unit, width, expected)

    @property
    def count(self) -> int:
        """Number of parameters."""
        return 5 + len(self.expected)

    def law(self, x: Floats) -> LossLaw:
        """Return the law in the units of the runs."""
        limit, a, alpha, b, c, beta, gamma = self._all(x)
        return LossLaw(
            L0=float(limit),
            A=float(np.exp(a) * (self.peak * self.unit) ** alpha),
            alpha=float(alpha),
            B=float(np.exp(b) / self.peak),
            C=float(np.exp(c) / self.unit * self.peak ** (gamma - 1.0)),
            beta=float(beta),
            gamma=float(gamma),
        )

    def _all(self, x: Floats) -> Floats:
        return np.concatenate([x, np.zeros(7 - len(x))])

    def _changes(self, c: float, beta: float, gamma: float) -> Floats:
        """Return the sum over the changes of the LR at all points."""
        parts = []
        for curve, times in zip(self.curves, self.times, strict=True):
            parts.append(-np.expm1(-beta * np.log1p(times * (np.exp(c) * curve.to**-gamma))) @ curve.by)
        return np.concatenate(parts)

    def predicted(self, x: Floats) -> Floats:
        """Return the losses of the law at all points."""
        limit, a, alpha, b, c, beta, gamma = self._all(x)
        found = limit + np.exp(a) * self.total**-alpha + np.exp(b) * self._changes(c, beta, gamma)
        return np.maximum(found, 1e-6)

    def residuals(self, x: Floats) -> Floats:
        """Return the log of each loss over the law's."""
        return np.log(self.values) - np.log(self.predicted(x))

    def _costs(self, x: Floats) -> Floats:
        pull = _PULL * self.width / _SPREAD * (x[5:] - self.expected)
        return np.concatenate([self.residuals(x), pull])

    def _jacobian(self, x: Floats) -> Floats:
        """Return the derivatives of `_costs` by the parameters; [n, parameters]."""
        limit, a, alpha, b, c, beta, gamma = self._all(x)
        power, factor = np.exp(a) * self.total**-alpha, np.exp(b)
        parts: list[list[Floats]] = [[], [], [], []]
        for curve, times in zip(self.curves, self.times, strict=True):
            scaled = times * (np.exp(c) * curve.to**-gamma)
            log = np.log1p(scaled)
            rest = np.exp(-beta * log)
            moved = rest * (beta * scaled / (1.0 + scaled))
            columns = ((1.0 - rest) @ curve.by, moved @ curve.by, (rest * log) @ curve.by,
                       moved @ (-np.log(curve.to) * curve.by))  # fmt: skip
            for part, column in zip(parts, columns, strict=True):
                part.append(column)
        changes, by_c, by_beta, by_gamma = (factor * np.concatenate(part) for part in parts)
        slopes = [np.ones_like(power), power, -power * np.log(self.total), changes, by_c, by_beta, by_gamma]
        losses = np.maximum(limit + power + changes, 1e-6)
        pull = np.zeros((len(self.expected), self.count))
        pull[:, 5:] = np.eye(len(self.expected)) * (_PULL * self.width / _SPREAD)
        return np.concatenate([-np.stack(slopes[: self.count], 1) / losses[:, None], pull])

    def improved(self, x: Floats) -> OptimizeResult:
        """Return the nearest minimum, within the bounds of the parameters."""
        low, high = _LOW[: self.count], _HIGH[: self.count]
        start = np.clip(x, low + 1e-9, high - 1e-9)
        return least_squares(
            self._costs, start, self._jacobian, (low, high), x_scale="jac", loss="huber", f_scale=self.width,
            max_nfev=200,
        )  # fmt: skip

    def solve(self) -> Floats:
        """Return the parameters of the lowest minimum that the best starts lead to."""
        starts = []
        for alpha, c, beta, gamma in _STARTS:
            own = gamma if self.count == 7 else 0.0
            power = self.total**-alpha
            columns = np.stack([np.ones_like(power), power, self._changes(c, beta, own)], 1) / self.values[:, None]
            (limit, a, b), error = nnls(columns, np.ones_like(power))
            x = np.array([limit, np.log(max(a, 1e-4)), alpha, np.log(max(b, 1e-4)), c, beta, own])
            starts.append((error, x[: self.count]))
        starts.sort(key=lambda start: start[0])
        found = [self.improved(x) for _, x in starts[:_FITTED_STARTS]]
        return np.asarray(min(found, key=lambda result: result.cost).x)

    def drawn(self, residuals: Floats, generator: np.random.Generator) -> Floats:
        """Return residuals drawn anew within each run, in blocks of neighbours."""
        parts, start = [], 0
        for at in self.points:
            own = residuals[start : start + len(at)]
            start += len(at)
            length = max(1, len(own) // _BLOCKS)
            first = generator.integers(0, len(own) - length + 1, -(-len(own) // length))
            parts.append(np.concatenate([own[one : one + length] for one in first])[: len(own)])
        return np.concatenate(parts)

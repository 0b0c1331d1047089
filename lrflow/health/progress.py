"""Detectors of a run that makes too little progress: an LR that is far too low, a plateau, overfitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lrflow.config.schemas.health import OwnResponse, Response
from lrflow.finding import Finding
from lrflow.health.detector import Detector
from lrflow.health.history import History, median
from lrflow.health.remedies import lower_lr, lr_times
from lrflow.metric import LOSS, TRAIN_LOSS, Metric, is_loss
from lrflow.wording import counted, number

MOVED = 1.5
"""Growth of the norm of the weights of a group that has moved far."""

_ALIKE = 0.2  # correlation of gradients from which on they are alike
_LEAST = 3  # measurements or validations from which anything is concluded
_STILL = 0.1  # distance that all updates of the run together can move the weights, as a share of their norm
_LAST = 9  # measurements whose median is the correlation of now
_SECTIONS = 3  # parts of the run so far, of equal sums of LRs, whose losses show whether it falls in a straight line


class TooLow(Detector):
    """Finds an LR that is far too low: the model moves in a straight line, or hardly, and the loss falls in one.

    Where steps are tiny, consecutive gradients are alike, as far as the noise of batches lets them be. At a fitting LR
    the weights soon reach a region where only noise is left, or cross a valley, and gradients are no longer alike. That
    they are alike is also true of a run that has converged without noise, but there the loss no longer falls, and of
    examples in the order of their classes, but there the loss swings.

    Where the noise of batches hides that gradients are alike, the length of the updates shows it: if all of the run
    together cannot move the weights by a tenth of their norm, nothing is learned. That alone has to do where the
    loss says nothing.

    The remedy extrapolates the straight line: at that LR half of the loss would be gone after a twentieth of the run.

    Args:
        correlation: of consecutive gradients (`History.correlation`), from which on they are alike.
        straightness: share of the fall of the loss that its second half has to have, measured in the sum of LRs: half
            of it for a straight line, next to none for a run that has converged.
        factor: how many times higher the LR of the remedy is at least.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False
    acts: ClassVar[tuple[Response, ...]] = ("stop",)

    def __init__(
        self,
        correlation: float = _ALIKE,
        straightness: float = 0.25,
        factor: float = 5.0,
        action: OwnResponse | None = None,
    ) -> None:
        super().__init__(action)
        self._correlation, self._straightness, self._factor = correlation, straightness, factor

    def judge(self, history: History) -> Finding | None:
        """Return the finding if gradients are alike, and the loss falls in a straight line or not noticeably."""
        facts = history.facts
        if facts.estimates or history.step < facts.warmup + 0.1 * facts.steps:
            return None
        path = _path(history)
        moves = f"all updates of the run together would move the weights by only {path:.1%} of their norm"
        if not facts.losses:
            return self._found(history, 0, moves, 0.5 / path, {"path": path}) if 0 < path < _STILL else None
        correlation = gradient_correlation(history)
        if not (correlation >= self._correlation or path < _STILL):
            return None
        fall = Fall.of(history)
        if fall is None or not fall.is_straight(self._straightness):
            return None
        factor = fall.factor(history)
        if factor < self._factor:
            return None
        evidence = {"correlation": correlation, "path": path, "fall": fall.share, "factor": factor}
        falls = f"the loss has fallen by only {max(fall.share, 0.0):.1%}, in a straight line"
        if not correlation >= self._correlation:
            return self._found(history, 0, f"{moves}, and {falls}", factor, evidence)
        steps, values = _correlations(history)
        differ = np.flatnonzero(values < 0.5 * self._correlation)
        since = int(steps[min(differ[-1] + 1, len(steps) - 1)] if len(differ) else steps[0])
        alike = f"consecutive gradients are alike, with a correlation of {correlation:.2f}"
        return self._found(history, since, f"{alike}, and {falls}", factor, evidence)

    def _found(self, history: History, since: int, message: str, factor: float, evidence: dict[str, float]) -> Finding:
        remedy = f"{lr_times(history.facts, min(factor, 1000.0), digits=1)}, or task=find"
        return Finding(self.kind, history.step, since, message, evidence, 0.92, remedy)


class Plateau(Detector):
    """Finds a run that has not improved for half of its length, has long to go, and has not converged.

    What counts is the metric of the best checkpoint, or the training loss of a run without validations. A run has
    converged, which is no finding, if its training loss is a tenth of the untrained one, if the plan has lowered the LR
    to less than half, or if its gradients have shrunk to a tenth after the loss had fallen by half. If an action is set
    for plateaus, such a run is a finding too: a restart is for an LR that the plan has lowered.

    The finding names a saddle, or a region as flat as one, if gradients are alike but lead nowhere, or have shrunk
    although the loss has not fallen by half, and the curvature, where it is probed, would allow a far higher LR. It
    proposes one unless the weights have moved far: then an LR that was too high may have led there.

    Args:
        patience: share of the planned run without an improvement.
        improvement: smallest share of the improvement so far that counts as one.
        left: least share of the planned run that is left.
        action: as in `Detector`. Only its own `stop` or `cooldown` ends a run, since a lower LR often ends a
            plateau.
    """

    def __init__(
        self, patience: float = 0.5, improvement: float = 0.01, left: float = 0.3, action: OwnResponse | None = None
    ) -> None:
        super().__init__(action)
        self._patience, self._improvement, self._left = patience, improvement, left

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the best value is old, and the last ones are not much worse."""
        facts = history.facts
        start = history.step - self._patience * facts.steps
        if history.step > (1 - self._left) * facts.steps or start < facts.warmup:
            return None
        metric = facts.metric or Metric(LOSS, "min")
        name, (steps, values) = metric.name, history.series(metric.name)
        if not len(values) and facts.losses:
            name, metric = "the training loss", Metric(TRAIN_LOSS, "min")
            steps, values = history.bins["loss"].steps, history.bins["loss"].means
        old = steps <= start
        if old.sum() < 2 or (~old).sum() < _LEAST or not np.isfinite(values).all():
            return None
        before, after = (values[some] * metric.sign for some in (old, ~old))
        noise, best = _noise(values), float(before.min())
        improvement = _improvement(history, metric, before)
        if improvement <= 2 * noise or after.min() < best - self._improvement * improvement:
            return None
        if np.median(after) > best + 0.1 * improvement + 2 * noise:
            return None  # it got worse, which is no plateau
        loss, gradient = _share_of_start(history, "loss"), _share_of_start(history, "grad_norm")
        decays = history.recent["lr"][-1] < 0.5 * facts.lr
        has_converged = decays or (facts.losses and (loss < 0.1 or (loss < 0.5 and gradient < 0.1)))
        if has_converged and self.action in (None, "watch"):
            return None
        since = int(steps[old][before.argmin()])
        correlation = gradient_correlation(history)
        evidence = {"best": best * metric.sign, "correlation": correlation, "grad_norm": gradient}
        message = f"{name} has not improved on {number(best * metric.sign)} for {counted(history.step - since, 'step')}"
        _, sharpness, share = history.sharpness[-1] if history.sharpness else (0, float("nan"), float("nan"))
        if history.sharpness:
            evidence |= {"sharpness": sharpness, "share_of_bound": share}
        remedy = "callbacks=early_stopping"
        if not has_converged:
            flat, remedy = _advice(history, correlation, gradient, share)
            message += flat
        return Finding(self.kind, history.step, since, message, evidence, None, remedy)


def _advice(history: History, correlation: float, gradient: float, share: float) -> tuple[str, str]:
    """Return what shows that a plateau is flat, as the end of a message, or nothing; and the remedy.

    Args:
        history: of a run that has not converged.
        correlation: of its consecutive gradients.
        gradient: their norm, relative to that at the start.
        share: of the stability bound that the LR uses; NaN: not measured.
    """
    facts, has_moved, is_alike = history.facts, history.growth >= MOVED, correlation >= _ALIKE
    if (is_alike or (facts.losses and gradient < 0.1)) and not share > 0.2:
        sign = "consecutive gradients are alike" if is_alike else "the gradients have shrunk, but not the loss"
        flat = f", at a saddle or in a flat region: {sign}"
        if history.growth < MOVED:
            return flat, lr_times(facts, min(10.0, 0.5 / share) if share > 0 else 3.0)
        if has_moved and not is_alike:  # steps too large may have led to where gradients vanish
            return flat, lower_lr(facts)
    else:
        flat = ""
    return flat, f"schedule=cosine, or {lower_lr(facts) if has_moved else 'callbacks=early_stopping'}"


class Overfitting(Detector):
    """Finds a validation metric that gets worse while the training loss falls.

    Args:
        rise: share of the best value of a metric by which the last ones are worse; of its improvement, if higher is
            better. Rises within its noise do not count.
        patience: number of validations since the best one.
        action: as in `Detector`.
    """

    acts: ClassVar[tuple[Response, ...]] = ("stop",)

    def __init__(self, rise: float = 0.05, patience: int = 3, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._rise, self._patience = rise, patience

    def judge(self, history: History) -> Finding | None:
        """Return the finding if the metric is worse than at its best, and the training loss is better than then."""
        metric = history.facts.metric or Metric(LOSS, "min")
        if not history.facts.losses or not self._may_be_found(history, metric):
            return None
        steps, values = history.series(metric.name)
        costs = values * metric.sign
        best, now = int(costs.argmin()), float(costs[-_LEAST:].min())
        rise = now - float(costs[best])
        if not np.isfinite(costs).all():
            return None
        improvement = _improvement(history, metric, costs[: best + 1])
        least = self._rise * (abs(costs[best]) if metric.mode == "min" else improvement)
        if rise < max(least, 0.02 * improvement) or rise < 3 * _noise(costs):
            return None
        loss = history.bins["loss"]
        width = max(0.1 * steps[-1], 4 * loss.width)
        then, last = (_mean(loss.steps, loss.means, at - width, at) for at in (float(steps[best]), float(history.step)))
        if not last < then - 0.05 * abs(then):
            return None
        message = (
            f"{metric.name} went from {number(values[best])} to {number(now * metric.sign)} while the training loss"
            f" fell from {number(then)} to {number(last)}"
        )
        evidence = {"best": values[best], "now": now * metric.sign, "loss_at_best": then, "loss": last}
        remedy = "callbacks=early_stopping"
        if history.facts.weight_decay:
            remedy += f", or optimizer.weight_decay={3 * history.facts.weight_decay:g}"
        return Finding(self.kind, history.step, int(steps[best]), message, evidence, 0.97, remedy)

    def _may_be_found(self, history: History, metric: Metric) -> bool:
        """Whether the best value is old enough, and the last ones are worse."""
        costs = [metric.sign * one[metric.name] for _, one in history.validations if metric.name in one]
        old = costs[: len(costs) - self._patience] if len(costs) > self._patience else []
        return bool(old) and min(costs) == min(old) < min(costs[-_LEAST:])


@dataclass(frozen=True)
class Fall:
    """The fall of the training loss over `_SECTIONS` parts of the run so far.

    Each part has the same sum of LRs, so that the loss of a run with a tiny LR falls in a straight line.

    Args:
        parts: mean loss of each part, in order.
        untrained: mean of the first losses.
        error: standard error of a part's mean, by the scatter of its losses from step to step.
        swing: standard deviation of the losses around a straight line.
        scatter: the same by their scatter from step to step; less than `swing` if it goes up and down slowly.
        rates: sum of the LRs between the middles of the first and last parts.
    """

    parts: tuple[float, ...]
    untrained: float
    error: float
    swing: float
    scatter: float
    rates: float

    @property
    def total(self) -> float:
        """By how much the last part is below the first."""
        return self.parts[0] - self.parts[-1]

    @property
    def share(self) -> float:
        """The fall relative to the first loss."""
        return self.total / max(abs(self.parts[0]), 1e-12)

    def is_straight(self, share: float) -> bool:
        """Whether the loss fell as in a straight line, or not noticeably.

        Args:
            share: share of the fall that the second half has to have.
        """
        second = self.parts[-2] - self.parts[-1]
        if self.total < -2 * self.error or max(self.parts) > 1.1 * abs(self.untrained) + 3 * self.error:
            return False  # it rises, or has risen
        if self.swing > max(2 * self.scatter, 0.5 * abs(self.total)):
            return False
        return second >= share * self.total - 2 * self.error

    def factor(self, history: History) -> float:
        """Return the factor on the LR at which half of the loss would be gone after a twentieth of the run.

        It is at most 1,000, and keeps to half of the stability bound where the sharpness was measured.
        """
        per_rate = max(self.total + 2 * self.error, 1e-12) / max(self.rates, 1e-300)
        rate = 0.5 * abs(self.parts[0]) / per_rate / (0.05 * history.facts.steps)
        share = history.sharpness[-1][2] if history.sharpness else 0.0
        return min(rate / history.facts.lr, 1000.0, 0.5 / share if share > 0 else np.inf)

    @classmethod
    def of(cls, history: History) -> Fall | None:
        """Return the fall of a run's loss; None: there are too few losses."""
        losses = history.bins["loss"]
        rates = np.array(history.bins["lr"].total[: len(losses.count)])
        some = np.flatnonzero(losses.count)
        first = history.first[np.isfinite(history.first)]
        if len(some) < 4 * _SECTIONS or not len(first) or not rates.sum() > 0:
            return None
        passed, means = (np.cumsum(rates) - rates / 2)[some] / rates.sum(), losses.means
        parts = [means[np.minimum((passed * _SECTIONS).astype(int), _SECTIONS - 1) == one] for one in range(_SECTIONS)]
        if min(map(len, parts)) < 2:
            return None
        swing = float(np.std(means - np.polyval(np.polyfit(passed, means, 1), passed)))
        scatter = _noise(means)
        return cls(
            parts=tuple(float(part.mean()) for part in parts),
            untrained=float(first[:10].mean()),
            error=scatter / min(map(len, parts)) ** 0.5,
            swing=swing,
            scatter=scatter,
            rates=float(rates.sum()) * (1 - 1 / _SECTIONS),
        )


def _path(history: History) -> float:
    """Return how far the updates of the planned run move the weights at most, as a share of their norm; NaN: unknown.

    Those at less than half the peak LR do not count, since others are longer.
    """
    weight, update = (np.linalg.norm(history.norms[name], axis=1) for name in ("weight", "update"))
    some = (weight > 0) & (history.rates.max(axis=1, initial=0.0) >= 0.5 * history.facts.lr)
    if some.sum() < 2 * _LEAST:
        return float("nan")
    return float(np.mean(update[some] / weight[some]) * history.facts.steps)


def gradient_correlation(history: History) -> float:
    """Return the median correlation of consecutive gradients at the last measurements; NaN: there are too few."""
    values = _correlations(history)[1][-_LAST:]
    return median(values) if len(values) >= _LEAST else float("nan")


def _correlations(history: History) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and correlations of gradients at no less than half the peak LR, with the momentum built up."""
    momentum, steps = history.facts.momentum, history.norm_steps
    rates = history.rates.max(axis=1, initial=0.0)
    start = max(history.facts.warmup, 2 / max(1 - momentum, 1e-3) if momentum > 0 else 0)
    correlation = history.correlation
    known = np.isfinite(correlation) & (rates >= 0.5 * history.facts.lr) & (steps >= start)
    return steps[known], correlation[known]


def _improvement(history: History, metric: Metric, costs: np.ndarray) -> float:
    """Return by how much the best of these values is below the highest, or below the loss of the untrained model."""
    first = history.first[np.isfinite(history.first)][:10]
    untrained = float(first.mean()) if is_loss(metric.name) and len(first) else -np.inf
    return max(float(costs.max()), untrained) - float(costs.min())


def _noise(values: np.ndarray) -> float:
    """Return the standard deviation of values around their trend, from their second differences."""
    if len(values) < _LEAST:
        return 0.0
    return median(np.abs(np.diff(values, 2))) / (0.6745 * 6**0.5)


def _share_of_start(history: History, name: str) -> float:
    """Return the mean of the last tenth of a series relative to that of its first parts; NaN: unknown."""
    own = history.bins[name]
    first = float(own.means[:_LEAST].mean()) if len(own.means) >= _LEAST else 0.0
    last = _mean(own.steps, own.means, history.step - 0.1 * history.facts.steps, history.step)
    return last / first if first > 0 else float("nan")


def _mean(steps: np.ndarray, values: np.ndarray, start: float, stop: float) -> float:
    some = (steps > start) & (steps <= stop)
    return float(values[some].mean()) if some.any() else float("nan")

"""Reading a range test: from the loss against a rising learning rate to the rate to train with, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from lrflow.tuning.rules import FEWEST, RULES, before_learning, divergence, halfway, smooth

Floats = npt.NDArray[np.float64]

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

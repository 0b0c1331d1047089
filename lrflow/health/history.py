"""The signals of a run as detectors read them: the last steps, means over the whole run, and its validations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any, TypeVar, cast

import numpy as np

from lrflow.metric import Metric
from lrflow.training.block import Block
from lrflow.training.group_norms import GroupNorms

WINDOW = 512
"""Number of last steps that are kept one by one."""

FIRST = 64
"""Number of first steps that are kept one by one."""

BINS = 256
"""Number of parts of the planned run over which means are kept."""

MEASURED = 256
"""Number of last measurements of norms, of validations and of the sharpness that are kept."""

STEP_SERIES = ("loss", "grad_norm", "lr", "seconds", "data_seconds")
CLOCKS = ("seconds", "data_seconds")
"""Those of them that a clock gave; a resumed run knows none of the steps before."""
NORM_SERIES = ("gradient", "weight", "update")
BIN_SERIES = STEP_SERIES[:3]
_ROWS = np.arange(len(BIN_SERIES))[:, None]
_FORM = 2  # of the state in a checkpoint
_PLAIN = ("first", "start", "norm_steps", "rates", "cosine")

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What detectors know of a run before its first step.

    Args:
        steps: optimizer steps of the plan.
        warmup: the first step at which the LR of the plan is at its peak.
        lr: peak LR of the plan, of the group where it is highest.
        multiple: `lr` as a multiple of `optimizer.lr`: above 1 for a group with a higher LR, or a scaled batch.
        decays: whether the plan ends at less than half of its peak LR.
        momentum: weight of the previous update in an update: `momentum`, or the first of `betas`; 0: none; NaN:
            unknown.
        weight_decay: `optimizer.weight_decay`.
        estimates: whether the optimizer estimates its LR itself.
        groups: names of the plan's trainable groups.
        metric: the metric of the best checkpoint; None: there is none.
        losses: whether the loss is minimized to a value that is comparable from batch to batch; false for methods
            such as policy gradients, whose loss says nothing about progress.
    """

    steps: int
    warmup: int = 0
    lr: float = 1.0
    multiple: float = 1.0
    decays: bool = False
    momentum: float = 0.0
    weight_decay: float = 0.0
    estimates: bool = False
    groups: tuple[str, ...] = ("all",)
    metric: Metric | None = None
    losses: bool = True

    @property
    def given_lr(self) -> float:
        """The LR of the config, `optimizer.lr`."""
        return self.lr / self.multiple


class Binned:
    """Statistics of one series over equal parts of the run, of the values that are finite.

    Args:
        width: steps per bin.
        count: values per bin; [bins], int64; 0 in parts of the run that are still to come.
        total: their sums; [bins], float64.
        high: their maxima; [bins], float64.
    """

    def __init__(self, width: int, count: np.ndarray, total: np.ndarray, high: np.ndarray) -> None:
        self.width, self.count, self.total, self.high = width, count, total, high

    @cached_property
    def steps(self) -> np.ndarray:
        """The middle step of each bin with values; [n], float64."""
        return (self.count.nonzero()[0] + 0.5) * self.width

    @cached_property
    def means(self) -> np.ndarray:
        """The mean of each bin with values; [n], float64."""
        some = self.count.nonzero()[0]
        return self.total[some] / self.count[some]


class Bins:
    """Statistics of `BIN_SERIES` over equal parts of the run.

    Args:
        width: steps per bin.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._parts = _empty()
        self._read: dict[str, Binned] = {}  # since values were added last

    def __getitem__(self, name: str) -> Binned:
        """Return the statistics of a series."""
        if name not in self._read:
            row = BIN_SERIES.index(name)
            self._read[name] = Binned(self.width, *(part[row] for part in self._parts))
        return self._read[name]

    def add(self, steps: np.ndarray, values: np.ndarray, finite: np.ndarray | None = None) -> None:
        """Add the values of steps where they are finite.

        Args:
            steps: in order; [n].
            values: [series, n].
            finite: whether each is; [series, n]; None: all are.
        """
        self._read.clear()
        bins = steps // self.width
        while len(bins) and bins[-1] >= self._parts[0].shape[1]:  # the run is longer than planned
            self._parts = tuple(np.concatenate(two, axis=1) for two in zip(self._parts, _empty(), strict=True))
        places = _ROWS * self._parts[0].shape[1] + bins
        places, some = (places.ravel(), values.ravel()) if finite is None else (places[finite], values[finite])
        count, total, high = (part.reshape(-1) for part in self._parts)
        # One value after the other: a sum by pairs would depend on where blocks end.
        np.add.at(count, places, 1)
        np.add.at(total, places, some)
        np.maximum.at(high, places, some)

    def state(self, step: int) -> np.ndarray:
        """Return the bins up to a step; [n, parts * series], float64."""
        return np.concatenate([part[:, : -(-step // self.width)] for part in self._parts]).T

    def restore(self, state: np.ndarray) -> None:
        """Restore such a state."""
        self._parts, self._read = _empty(-(-max(len(state), 1) // BINS) * BINS), {}
        for part, saved in zip(self._parts, np.split(state.T, len(self._parts)), strict=True):
            part[:, : len(state)] = saved


def _empty(bins: int = BINS) -> tuple[np.ndarray, ...]:
    """Return counts, sums and maxima of no values; [series, bins] each."""
    shape = len(BIN_SERIES), bins
    return np.zeros(shape, dtype=np.int64), np.zeros(shape), np.full(shape, -np.inf)


class History:
    """The signals of a run up to a step, of a size that does not grow with the run.

    Args:
        facts: what is known of the run.

    Attributes:
        step: number of steps seen.
        first: the losses of the first steps; [up to `FIRST`], float64.
        bins: statistics of `BIN_SERIES` over parts of the whole run; `lr` is the largest LR of all groups.
        not_finite: number of steps whose loss was not finite.
        start: norms of each group's weights at the first measurement; [groups]; empty before it.
        norm_steps: steps at which norms were measured; [m], int.
        norms: norms of each group at these by name, `NORM_SERIES`; each [m, groups], float64.
        rates: LR of each group at these steps; [m, groups], float64.
        cosine: cosine between each of these updates and the previous one; NaN: not measured; [m], float64.
        validations: step and metrics of each validation.
        sharpness: step, sharpness, and share of the stability bound at each measurement.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        width = max(1, -(-facts.steps // BINS))
        self.step = 0
        self.first = np.zeros(0)
        self._recent = np.zeros((len(STEP_SERIES), 0))
        self.bins = Bins(width)
        self.not_finite = 0
        self.start = np.zeros(0)
        self.norm_steps = np.zeros(0, dtype=np.int64)
        self.norms = {name: np.zeros((0, len(facts.groups))) for name in NORM_SERIES}
        self.rates = np.zeros((0, len(facts.groups)))
        self.cosine = np.zeros(0)
        self.validations: list[tuple[int, dict[str, float]]] = []
        self.sharpness: list[tuple[int, float, float]] = []
        self._remembered: dict[Callable[[History], Any], Any] = {}

    @property
    def recent(self) -> dict[str, np.ndarray]:
        """Series of the last steps by name, `STEP_SERIES`; each [up to `WINDOW`], float64.

        The loss of a skipped step is NaN.
        """
        return self.remembered(_by_name)

    @property
    def recent_steps(self) -> np.ndarray:
        """The steps of `recent`; [n], int64."""
        return np.arange(self.step - self._recent.shape[1], self.step)

    @property
    def correlation(self) -> np.ndarray:
        """Correlation of the gradients of two consecutive steps at each measurement; NaN: unknown; [m], float64.

        It is the share of a gradient's square that is no noise. Of updates that are a running mean of such gradients,
        `u = m u + g` with momentum m, the cosine is (m + a q) / (1 + a q), where q is the ratio of signal to noise of a
        gradient and a = (1 + m) / (1 - m).
        """
        momentum = self.facts.momentum
        excess = (self.cosine - momentum) * (1 - momentum)
        ratio = excess / np.maximum((1 - self.cosine) * (1 + momentum), 1e-9)
        return np.maximum(ratio, 0.0) / (1.0 + np.maximum(ratio, 0.0))

    @property
    def update_ratio(self) -> np.ndarray:
        """Norm of each measured update divided by that of the weights; NaN for weights of zero; [m, groups]."""
        weight, update = self.norms["weight"], self.norms["update"]
        return np.divide(update, weight, out=np.full_like(update, np.nan), where=weight > 0)

    @property
    def growth(self) -> float:
        """The largest ratio of a group's norm of weights to that at the start; NaN: not measured, or all were zero."""
        return self.remembered(_growth)

    def is_at_peak(self, steps: int) -> bool:
        """Return whether the LR of the last steps was near the peak of the config."""
        return bool(self.recent["lr"][-steps:].min() >= 0.9 * self.facts.lr)

    def series(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and values of a validation metric, in order; [n] each."""
        found = [(step, metrics[metric]) for step, metrics in self.validations if metric in metrics]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64)

    def extend(self, block: Block, start: int = 0, stop: int | None = None) -> None:
        """Add the signals of the next steps.

        Args:
            block: of these steps.
            start: position of the first of them in the block.
            stop: position after the last; None: the end of the block.
        """
        rows = slice(start, len(block) if stop is None else stop)
        first, count = block.first + start, rows.stop - start
        series, skipped = np.zeros((len(STEP_SERIES), count)), block.skipped[rows]
        loss, gradient, lr, seconds, waited = series
        loss[:], gradient[:], seconds[:] = block.loss[rows], block.grad_norm[rows], block.seconds[rows]
        loss[skipped] = np.nan
        block.effective[rows].max(axis=1, out=lr)
        if block.data_seconds is not None:
            waited[:] = block.data_seconds[rows]
        self._remembered.clear()
        self.step = first + count
        if first == len(self.first) < FIRST:  # else the first steps were made without monitors, or are full
            self.first = np.concatenate([self.first, loss[: FIRST - len(self.first)]])
        self._recent = np.concatenate([self._recent, series], axis=1)[:, -WINDOW:]
        steps, values = np.arange(first, self.step), series[: len(BIN_SERIES)]
        is_finite = np.isfinite(values)
        if np.count_nonzero(is_finite) == is_finite.size:
            self.bins.add(steps, values)
        else:
            self.not_finite += count - int(np.count_nonzero(is_finite[0] | skipped))
            self.bins.add(steps, values, is_finite)
        if block.norms is not None and len(block.norms.rows):
            self._add_norms(block, block.norms, rows)

    def _add_norms(self, block: Block, measured: GroupNorms, rows: slice) -> None:
        norms = measured.part(rows.start, rows.stop)
        if not len(norms.rows):
            return
        if not len(self.start):
            self.start = np.array(norms.weight[0])
        steps = block.first + rows.start + norms.rows
        self.norm_steps = np.concatenate([self.norm_steps, steps])[-MEASURED:]
        for name in NORM_SERIES:
            self.norms[name] = np.concatenate([self.norms[name], getattr(norms, name)])[-MEASURED:]
        self.rates = np.concatenate([self.rates, block.effective[rows][norms.rows]])[-MEASURED:]
        self.cosine = np.concatenate([self.cosine, norms.cosine])[-MEASURED:]

    def add_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a validation after a number of steps; a second one at a step replaces the first."""
        if self.validations and self.validations[-1][0] == step:
            self.validations.pop()
        self.validations = [*self.validations, (step, dict(metrics))][-MEASURED:]

    def add_sharpness(self, step: int, top: float, share: float) -> None:
        """Add a measurement of the sharpness before a step."""
        self.sharpness = [*self.sharpness, (step, top, share)][-MEASURED:]

    def remembered(self, make: Callable[[History], T]) -> T:
        """Return what a function makes of the steps so far; it is called once, however many detectors ask."""
        if make not in self._remembered:
            self._remembered[make] = make(self)
        return cast(T, self._remembered[make])

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the facts and what a clock gave, so that equal runs have equal states.

        All numbers are in one array, after the lengths of the series: every object in a checkpoint takes as long as
        hundreds of numbers.
        """
        metrics = self._metrics()
        arrays = [*self._arrays(metrics).values()]
        head = [self.rates.shape[1], self.step, self.not_finite, self.bins.width, *map(len, arrays)]
        numbers = np.concatenate([head, *(one.ravel() for one in arrays)], dtype=float)
        return {"form": _FORM, "metrics": metrics, "numbers": numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore a state, and return true; that of other groups, or of a version with another form, is dropped."""
        if state.get("form") != _FORM or state["numbers"][0] != len(self.facts.groups):
            return False
        numbers = state["numbers"]
        fresh = History(self.facts)
        _, fresh.step, fresh.not_finite, width = numbers[:4].astype(int).tolist()
        fresh.bins = Bins(width)
        made, found = fresh._arrays(state["metrics"]), dict[str, np.ndarray]()
        place = 4 + len(made)
        for (name, one), length in zip(made.items(), numbers[4:place].astype(int).tolist(), strict=True):
            shape = (length, *one.shape[1:])
            found[name] = numbers[place : place + math.prod(shape)].reshape(shape).astype(one.dtype)
            place += math.prod(shape)
        for name in _PLAIN:
            setattr(fresh, name, found[name])
        fresh.norms = {name: found[f"norms/{name}"] for name in NORM_SERIES}
        recent = found["recent"].T
        fresh._recent = np.concatenate([recent, np.zeros((len(CLOCKS), recent.shape[1]))])
        fresh.bins.restore(found["bins"])
        columns = (found[name].tolist() for name in ("validated", "values", "known"))
        fresh.validations = [
            (step, dict(compress(zip(state["metrics"], values, strict=True), known)))
            for step, values, known in zip(*columns, strict=True)
        ]
        fresh.sharpness = [(int(step), top, share) for step, top, share in found["sharpness"].tolist()]
        vars(self).update(vars(fresh))
        return True

    def _metrics(self) -> list[str]:
        return sorted({name for _, metrics in self.validations for name in metrics})

    def _arrays(self, metrics: Sequence[str]) -> dict[str, np.ndarray]:
        """Return all series that a checkpoint holds; their dtypes and columns do not depend on the content.

        Args:
            metrics: names of the metrics of validations.
        """
        measured = [one for _, one in self.validations]
        table = len(measured), len(metrics)
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            **{f"norms/{name}": one for name, one in self.norms.items()},
            "recent": self._recent[: -len(CLOCKS)].T,
            "bins": self.bins.state(self.step),
            "validated": np.array([step for step, _ in self.validations], int),
            "values": np.array([one.get(name, np.nan) for one in measured for name in metrics], float).reshape(table),
            "known": np.array([name in one for one in measured for name in metrics], bool).reshape(table),
            "sharpness": np.array(self.sharpness, float).reshape(-1, 3),
        }


def _by_name(history: History) -> dict[str, np.ndarray]:
    return dict(zip(STEP_SERIES, history._recent, strict=True))


def _growth(history: History) -> float:
    some = history.start > 0
    return float((history.norms["weight"][-1][some] / history.start[some]).max()) if some.any() else float("nan")


def median(values: np.ndarray) -> float:
    """Return the median of some values, NaN if one is; of few, in a tenth of the time that NumPy's own takes."""
    ordered = np.sort(values)
    if np.isnan(ordered[-1]):
        return float("nan")
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)

"""The shortest warmup (`find=warmup`) with which an LR that is unstable without one trains stably."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lrflow.config import Config
from lrflow.config.schemas.find import WarmupFind
from lrflow.errors import LrflowError
from lrflow.layers import Group
from lrflow.memory import freed_after
from lrflow.plan import Plan
from lrflow.schedules import Constant, Duration, Horizon, Schedule
from lrflow.training import Signals
from lrflow.tuning.short_runs import short_fit, whole_horizon
from lrflow.tuning.trial_runs import LossRecorder

PER_DECADE = 4  # LRs between the best one and ten times it that are tried for the lowest unstable one
AFTER = 2  # times its length for which the LR stays constant after a warmup
WINDOW = 5  # steps over which the loss is averaged, or a fiftieth of the run
RISE = 0.5  # of what the loss fell at the best LR: a run whose loss rises by more is unstable


@dataclass(frozen=True)
class WarmupRun:
    """Short runs with one LR and one warmup.

    Args:
        lr: peak LR.
        warmup: steps.
        stable: how many of them were stable.
        seeds: how many there were.
        steps: of all of them together.
    """

    lr: float
    warmup: int
    stable: int
    seeds: int
    steps: int

    @property
    def is_stable(self) -> bool:
        """Whether all of them were stable."""
        return self.stable == self.seeds


@dataclass(frozen=True)
class WarmupSearch:
    """The runs of a search for the shortest warmup.

    Args:
        lr: the configured LR.
        runs: in the order in which they were made.
        unstable: the lowest LR that was unstable without a warmup; None: not even ten times the configured one was.
        length: steps of the whole run.
        warmups: the warmups that were to be tried, in steps.
        factors: multiples of `unstable` that were tried with them.
    """

    lr: float
    runs: Sequence[WarmupRun]
    unstable: float | None
    length: int
    warmups: Sequence[int]
    factors: Sequence[float]

    def found(self, factor: float) -> int | None:
        """Return the shortest warmup with which this multiple of the unstable LR is stable; None: none of those is."""
        if self.unstable is None:
            return 0
        lr = self.unstable * factor
        return next((run.warmup for run in self.runs if run.lr == lr and run.is_stable), None)

    @property
    def best(self) -> tuple[float, int] | None:
        """The highest LR that a warmup keeps stable, and the shortest such warmup; None: no warmup does."""
        if self.unstable is None:
            return 10 * self.lr, 0
        kept = [(factor, steps) for factor in self.factors if (steps := self.found(factor)) is not None]
        return (self.unstable * max(kept)[0], max(kept)[1]) if kept else None

    @property
    def steps(self) -> int:
        """Steps of all runs."""
        return sum(run.steps for run in self.runs)


def is_unstable(losses: Sequence[float], fall: float | None = None) -> bool:
    """Return whether the loss of a run rises for a while as unstable training makes it rise.

    It does if it is not finite, or if a mean over `WINDOW` steps is above the lowest one before it, or above the first
    loss, by more than `RISE` of what the loss falls at the best LR.

    Args:
        losses: of each step.
        fall: what the loss falls in a stable run; None: what it falls in this one.
    """
    means = _means(losses)
    if not np.isfinite(means).all():
        return True
    highest_rise = float((means - np.minimum.accumulate(means)).max())
    return highest_rise > RISE * (fall_of(losses) if fall is None else fall)


def fall_of(losses: Sequence[float]) -> float:
    """Return by how much the loss falls below that of the first step."""
    means = _means(losses)
    return float(means[0] - means.min())


def _means(losses: Sequence[float]) -> np.ndarray:
    """Return the first loss, then the means over consecutive windows."""
    values = np.asarray(losses, float)
    width = max(WINDOW, len(values) // 50)
    with np.errstate(invalid="ignore", over="ignore"):
        means = [part.mean() for part in np.array_split(values, max(1, len(values) // width))]
    return np.array([values[0], *means])


def search_warmup(
    lr: float,
    train: Callable[[float, int], WarmupRun],
    factors: Sequence[float],
    warmups: Sequence[int],
    length: int,
) -> WarmupSearch:
    """Search for the shortest warmup as the Tuning Playbook does (Godbole et al., 2023).

    First the lowest LR that is unstable without a warmup is found, between the best LR and ten times it. Then multiples
    of it are trained with warmups, from the shortest to the first with which the run is stable.

    Args:
        lr: the best LR.
        train: makes the runs with an LR and a warmup in steps.
        factors: multiples of the lowest unstable LR.
        warmups: in steps, from short to long.
        length: steps of the whole run.
    """
    runs = [train(lr, 0)]
    unstable = None if runs[0].is_stable else lr
    if unstable is None:
        for position in range(1, PER_DECADE + 1):
            runs.append(train(lr * 10 ** (position / PER_DECADE), 0))
            if not runs[-1].is_stable:
                unstable = runs[-1].lr
                break
    if unstable is not None:
        for factor in factors:
            for warmup in warmups:
                runs.append(train(unstable * factor, warmup))
                if runs[-1].is_stable:
                    break
    return WarmupSearch(lr, runs, unstable, length, warmups, factors)


def measure_warmups(
    config: Config, find: WarmupFind, folder: Path, report: Callable[[WarmupRun], None] = lambda _: None
) -> WarmupSearch:
    """Make the short runs of a search for the shortest warmup; the LR is constant after it, without a cooldown.

    Args:
        config: of the run, whose LR is taken for the best one.
        find: LRs, warmups and seeds.
        folder: of the run; nothing is written there.
        report: is called with the runs of each LR and warmup.

    Raises:
        EndedEarlyError: a run ended before its last step, by something other than a divergence.
        LrflowError: a duration cannot be converted to steps.
    """
    whole = whole_horizon(config, folder)
    try:
        warmups = sorted({max(1, given.steps(whole)) for given in find.warmups})
        plain = min(whole.steps, find.steps.steps(whole))
    except ValueError as error:
        raise LrflowError(f"find.warmups or find.steps: {error}") from error
    falls: dict[int, float] = {}  # by seed, at the configured LR

    def train(lr: float, warmup: int) -> WarmupRun:
        steps = max(plain, (1 + AFTER) * warmup)  # as long as the runs that are unstable without a warmup
        stable = 0
        for seed in range(config.seed, config.seed + find.seeds):
            losses = _losses(config, seed, lr, warmup, steps, folder)
            stable += not is_unstable(losses, falls.get(seed))
            if np.isfinite(losses).all():
                falls.setdefault(seed, fall_of(losses))
        made = WarmupRun(lr, warmup, stable, find.seeds, steps * find.seeds)
        report(made)
        return made

    return search_warmup(config.optimizer.lr, train, sorted(find.factors), warmups, whole.steps)


@freed_after()
def _losses(config: Config, seed: int, lr: float, warmup: int, steps: int, folder: Path) -> list[float]:
    """Train with a constant LR after a warmup, and return the loss of each step up to the first that is not finite."""
    recorder = LossRecorder()

    def plan(groups: Sequence[Group]) -> Plan:
        factor = lr / config.optimizer.lr
        scaled = [replace(one, lr=one.lr * factor, schedule=None, unfreeze=None, freeze_after=None) for one in groups]
        return Plan.compile(scaled, Schedule(Constant(), Duration(warmup, "steps")), Horizon(steps))

    short_fit(config, seed, steps, folder, plan, lambda _, __, made: [Signals(made, 10), recorder])
    return recorder.losses

"""Settling a learning rate by short whole runs: which LRs to try, and where between them the best one lies.

Where a loss is least over the logarithm of the learning rate, from the few that were tried.

find.confirm: settle what a range test found by a few trial runs under the run's own schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from lrflow import assemble
from lrflow.config import Config
from lrflow.config.checks import settings_of
from lrflow.config.find_schema import RangeFind
from lrflow.layers import Group
from lrflow.memory import freed_after
from lrflow.metric import LOSS, TRAIN_LOSS, is_validation
from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.training import Block, Signals
from lrflow.training.branches import Branch, compile_branched
from lrflow.training.metrics import logged_metric
from lrflow.training.monitor import Monitor
from lrflow.training.trainer import SHORT_RUN_DONE
from lrflow.tuning.short_runs import short_fit, whole_horizon

NEAR = 0.5  # decades around the best whose losses a parabola is fitted to
BESIDE = 0.25  # decades: closer ones differ by less than another seed would make
FLAT = 0.02  # how much worse than the least a loss may be where it is as good, as a share of how far losses differ
SLACK = 1.001  # so that rounding leaves no neighbour out


@dataclass(frozen=True)
class Valley:
    """The lowest part of a loss over positions in decades.

    Args:
        best: the position whose loss was the least.
        at: where a parabola, fitted to the losses near it, is least; `best` where none could be.
        interval: between which the parabola is no worse than the noise of the fit; at most from the one that was tried
            beside the best to the other.
        bracketed: whether something was tried below the best, and above it.
        parabola: bend, slope and level of the parabola over the distance from `best`; None: none was fitted.
        misfit: standard error of a loss about the parabola; 0 where it goes through all three that there are.
    """

    best: float
    at: float
    interval: tuple[float, float]
    bracketed: tuple[bool, bool]
    parabola: tuple[float, float, float] | None = None
    misfit: float = 0.0


def fit_parabola(
    losses: Mapping[float, float], near: float = NEAR, noise: float = 0.0, below: float = math.inf
) -> Valley:
    """Reads where a loss is least.

    Args:
        losses: by position, in decades; infinite where the run diverged.
        near: decades around the best that the parabola is fitted to.
        noise: standard error of a loss, where it is known; the misfit of the parabola comes on top.
        below: what a loss has to be for the parabola to be fitted to it: far above the best it is none.

    Raises:
        ValueError: every run diverged.
    """
    positions = sorted(losses)
    best = min(positions, key=lambda position: losses[position])
    if not math.isfinite(losses[best]):
        raise ValueError("every run diverged")
    bracketed = positions[0] < best, positions[-1] > best
    low = _beside(best, [position for position in reversed(positions) if position < best], losses)
    high = _beside(best, [position for position in positions if position > best], losses)
    close = [p for p in positions if abs(p - best) <= near * SLACK and losses[p] < below]
    if len(close) >= 3:
        away, found = np.array(close) - best, np.array([losses[position] for position in close])
        bend, slope, level = (float(number) for number in np.polyfit(away, found, 2))
        if bend > 0:
            left_over = found - (bend * away**2 + slope * away + level)
            misfit = math.sqrt(float((left_over**2).sum()) / max(1, len(close) - 3))
            at = best + min(max(-slope / (2 * bend), low - best), high - best)
            width = math.sqrt((FLAT * float(np.ptp(found)) + math.hypot(misfit, noise)) / bend)
            interval = max(low, at - width), min(high, at + width)
            return Valley(best, at, interval, bracketed, (bend, slope, level), misfit)
    return Valley(best, best, (low, high), bracketed)


def _beside(best: float, further: list[float], losses: Mapping[float, float]) -> float:
    """The next position that is not too close to differ; beyond the last that ended well nothing is known."""
    edge = best
    for position in further:
        if not math.isfinite(losses[position]):
            break
        edge = position
        if abs(edge - best) * SLACK >= BESIDE:
            break
    return edge


STEP = 0.5  # decades between the LRs that are tried first
FINEST = BESIDE  # between those that are tried then


@dataclass(frozen=True)
class Confirmed:
    """What a few trial runs say of an LR.

    Args:
        lr: where a parabola, fitted to the losses around the best over the logarithm of the LR, is least.
        interval: the LRs between which that is no worse than the noise of the fit; at most from the one LR that was
            tried beside the best to the other.
        tried: LRs, rising, each with the loss that its run ended at; infinite where it diverged.
        doubts: why the answer is not to be trusted, each a sentence; none: it is.
    """

    lr: float
    interval: tuple[float, float]
    tried: tuple[tuple[float, float], ...]
    doubts: tuple[str, ...] = ()

    @property
    def confident(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.doubts


def confirm_lr(start: float, loss: Callable[[float], float], runs: int) -> Confirmed:
    """Look for the best LR near one, by runs whose LR is annealed as the whole run's.

    It looks half a decade to both sides, goes on by half decades where the loss still falls, then into the two gaps
    beside the best, the better side first. Both sides, because on a plateau of LRs that are too high the loss may fall
    a little upwards. How losses rank before an LR is annealed says little of how they rank after, so each run follows
    the whole schedule, scaled to its length.

    Args:
        start: where to begin, such as the answer of a range test.
        loss: what a run with an LR ends at; not finite where it diverged.
        runs: how many may be made; at least 3.

    Raises:
        ValueError: every run diverged.
    """
    found: dict[float, float] = {}

    while len(found) < runs and (position := _next(found)) is not None:
        value = loss(start * 10.0**position)
        found[position] = value if math.isfinite(value) else math.inf
    if not any(map(math.isfinite, found.values())):
        raise ValueError("every trial run diverged")
    return _read(start, found)


def _next(found: dict[float, float]) -> float | None:
    """The distance from the start, in decades, at which to look next; None: there is nothing left to refine."""
    if not found:
        return 0.0
    if not any(map(math.isfinite, found.values())):
        return min(found) - STEP
    if STEP not in found and math.isfinite(found[0.0]):
        return STEP
    if -STEP not in found:
        return -STEP
    below, best, above = _around(found)
    if below is None:
        return best - STEP
    if above is None:
        return best + STEP
    sides = sorted((below, above), key=lambda side: found[side])
    return next(((best + side) / 2 for side in sides if abs(side - best) > FINEST * 1.001), None)


def _around(found: dict[float, float]) -> tuple[float | None, float, float | None]:
    """The best position and its neighbours."""
    positions = sorted(found)
    index = positions.index(min(found, key=lambda position: found[position]))
    below = positions[index - 1] if index else None
    return below, positions[index], positions[index + 1] if index + 1 < len(positions) else None


def _read(start: float, found: dict[float, float]) -> Confirmed:
    """The answer, from the losses at distances from the start."""
    valley = fit_parabola(found)
    low, high = valley.interval
    tried = tuple((start * 10.0**position, found[position]) for position in sorted(found))
    doubts = []
    if not all(valley.bracketed):
        way, lr = "highest" if valley.bracketed[0] else "lowest", start * 10.0**valley.best
        doubts.append(f"the {way} LR that was tried, {lr:.3g}, was the best: one beyond it may be better")
    interval = (start * 10.0**low, start * 10.0**high)
    return Confirmed(start * 10.0**valley.at, interval, tried, tuple(doubts))


FEWEST = 20  # steps of a trial run
LAST = 0.1  # share of a run whose training losses are averaged where nothing is held out for validation


def confirm_range(
    config: Config, find: RangeFind, start: float, folder: Path, tell: Callable[[float, float, int], None]
) -> tuple[Confirmed, int]:
    """Make the trial runs.

    Args:
        config: of the run; each trial run has its seed, its data in the same order and the model it starts from.
        find: how many, and how long.
        start: the LR of the first ones.
        folder: of the run.
        tell: is told the LR, the loss and the steps of each.

    Returns:
        what they say, and the steps that they took.

    Raises:
        EndedEarlyError: something else ended one of them.
    """
    whole = whole_horizon(config, folder)
    made: list[int] = []

    def loss(lr: float) -> float:
        value, steps = _short_run(config, find, lr, whole, folder)
        made.append(steps)
        tell(lr, value, steps)
        return value

    sign = find.metric.sign
    found = confirm_lr(start, lambda lr: sign * loss(lr), find.confirm_runs)
    return replace(found, tried=tuple((lr, sign * value) for lr, value in found.tried)), sum(made)


def short_plan(config: Config, groups: Sequence[Group], lr: float, whole: Horizon, steps: int) -> Plan:
    """The plan of a trial run: that of the whole run, all durations scaled, at another peak.

    Args:
        config: whose schedule it follows.
        groups: at the run's own peak.
        lr: the peak; all groups keep their ratios.
        whole: how long the run is.
        steps: how long the short one is.
    """
    scaled = [replace(group, lr=group.lr * (lr / config.optimizer.lr)) for group in groups]
    # The whole schedule stretched over another length, from its first step on.
    branch = Branch(0, whole, "extend")
    horizon = Horizon(steps, whole.steps_per_epoch)
    return compile_branched(scaled, assemble.build_schedule(config), horizon, [branch], settings_of(config.optimizer))


class _Losses(Monitor):
    """Notes the loss of every step, and stops a run at the first that is not finite."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        self.losses.extend(block.losses.tolist())
        if not np.isfinite(block.losses).all():
            trainer.stop(SHORT_RUN_DONE)  # type: ignore[attr-defined]


@freed_after()
def _short_run(config: Config, find: RangeFind, lr: float, whole: Horizon, folder: Path) -> tuple[float, int]:
    """What a trial run ends at, and its steps.

    That is the metric that the range test reads; where it reads the training loss and something is held out, the loss
    of validation.
    """
    steps = min(whole.steps, max(FEWEST, find.confirm_length.steps(whole)))
    noted = _Losses()
    trainer, module, data = short_fit(
        config,
        config.seed,
        steps,
        folder,
        lambda groups: short_plan(config, groups, lr, whole, steps),
        lambda _, __, plan: [Signals(plan, config.trainer.log_every), noted],
    )
    losses = noted.losses
    if not np.isfinite(losses).all():
        return math.inf, len(losses)
    if find.monitor != TRAIN_LOSS and not is_validation(find.monitor):
        return logged_metric(trainer, find.monitor, key="find.monitor"), steps
    if is_overridden("val_dataloader", data) and is_overridden("validation_step", module):
        trainer.validate(module, datamodule=data, verbose=False)
        if is_validation(find.monitor):
            return logged_metric(trainer, find.monitor, key="find.monitor"), steps
        if (found := trainer.callback_metrics.get(LOSS)) is not None:
            return float(found), steps
    return float(np.mean(losses[-max(10, int(LAST * steps)) :])), steps

"""The critical batch (`find=critical_batch`): the batch beyond which more examples per step save few steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.config.schemas.find import CriticalBatchFind
from lrflow.errors import LrflowError
from lrflow.memory import freed_after
from lrflow.plan import Plan
from lrflow.schedules.time import Floats
from lrflow.training import Block, Signals
from lrflow.training.loaders import samples_per_batch
from lrflow.training.monitor import Monitor
from lrflow.training.trainer import SHORT_RUN_DONE
from lrflow.tuning.short_runs import short_fit, short_plan, whole_horizon

STRETCHES = 10  # of a run, since the noise changes over it
FEWEST = 20  # measurements in a stretch; a shorter run has fewer stretches
BLOCK = 5  # consecutive measurements that the bootstrap draws together, since they depend on each other
DRAWS = 2000
CONFIDENCE = 0.9
WIDEST = 5  # an interval whose ends have a higher ratio says too little
UNMEASURABLE = (
    "the gradient noise of this run cannot be measured: that needs batches of at least two examples, automatic "
    "optimization, one device or ddp, and no precision=16-mixed"
)


@dataclass(frozen=True)
class GradientNoiseRun:
    """The gradient noise of a run, and the critical batch that follows from it.

    G is the gradient of the expected loss, S the covariance of the gradient of one example (McCandlish et al., 2018,
    1812.06162). The noise scale is tr(S) / |G|^2, of means over the measurements, since single estimates scatter
    widely. Over the whole run it is the critical batch: steps count by |G|^2, so by how fast the loss can fall there.
    A run with batches of B examples then takes S = S_min (1 + critical / B) steps and E = B S examples, so
    (S / S_min - 1)(E / E_min - 1) = 1: at the critical batch, both are twice the fewest possible.

    Args:
        steps: at which the noise was measured; [n], int64.
        trace: unbiased estimates of tr(S); [n].
        squared: unbiased estimates of |G|^2, which may be negative; [n].
        batch: examples per optimizer step.
        seed: of the bootstrap.
    """

    steps: np.ndarray
    trace: Floats
    squared: Floats
    batch: float
    seed: int = 0

    @cached_property
    def stretches(self) -> list[np.ndarray]:
        """The measurements of each of up to `STRETCHES` equal stretches of the run, as positions."""
        count = min(STRETCHES, max(1, len(self.steps) // FEWEST))
        return np.array_split(np.arange(len(self.steps)), count)

    @cached_property
    def _drawn(self) -> Floats:
        """Sums of `trace` and `squared` over each stretch in each draw of a block bootstrap; [2, draws, stretches]."""
        generator = np.random.default_rng(self.seed)
        estimates = np.stack([self.trace, self.squared])
        drawn = []
        for part in self.stretches:
            starts = generator.integers(len(part), size=(DRAWS, -(-len(part) // BLOCK), 1))
            chosen = ((starts + np.arange(BLOCK)) % len(part)).reshape(DRAWS, -1)[:, : len(part)]
            drawn.append(estimates[:, part[chosen]].sum(2))
        return np.stack(drawn, 2)

    @cached_property
    def scales(self) -> Floats:
        """The noise scale of each stretch, in examples; infinite where no signal was measured; [stretches]."""
        return np.array([_scale(self.trace[part].sum(), self.squared[part].sum()) for part in self.stretches])

    @property
    def intervals(self) -> tuple[Floats, Floats]:
        """The ends of the interval of each stretch's noise scale; [stretches] each."""
        return _interval(_scale(*self._drawn))

    @property
    def critical(self) -> float:
        """The critical batch in examples per optimizer step."""
        return float(_scale(self.trace.sum(), self.squared.sum()))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The interval of the critical batch: how far it moves with other batches of the same run."""
        low, high = _interval(_scale(*self._drawn.sum(2)))
        return float(low), float(high)

    @property
    def doubts(self) -> list[str]:
        """Why the critical batch should not be trusted; empty: it can be."""
        found = []
        if len(self.steps) < 2 * FEWEST:
            found.append(f"the noise was measured at only {len(self.steps)} steps; find.steps makes a longer run")
        low, high = self.interval
        if not math.isfinite(high):
            found.append("it has no upper limit: a larger data.batch_size shows more of the signal")
        elif high > WIDEST * low:
            found.append(f"its interval spans a factor of {high / low:.3g}; find.steps makes a longer run")
        return found

    def steps_factor(self, batch: float, critical: float | None = None) -> float:
        """Return the steps that a run with another batch takes to the same loss, relative to this one."""
        noise = self.critical if critical is None else critical
        return (1 + noise / batch) / (1 + noise / self.batch)

    def saved_by_doubling(self, batch: float) -> float:
        """Return the share of the steps that twice the batch saves: 1/2 of few examples, 1/4 at the critical batch."""
        return self.critical / (batch + self.critical) / 2

    def lr_factors(self, batch: float, exponents: Sequence[float]) -> tuple[float, float]:
        """Return the least and the greatest factor from the best LR of this run to that of another batch.

        The best LR is proportional to (1 + critical / batch)^-exponent (same paper).

        Args:
            batch: examples per optimizer step.
            exponents: 1 for SGD; for Adam, between 0.5 and 1.
        """
        factors = [self.steps_factor(batch, end) ** -power for end in self.interval for power in exponents]
        return min(factors), max(factors)


def _scale(trace: Any, squared: Any) -> Any:
    """Return trace / squared: 0 without noise, infinite without signal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squared > 0, np.maximum(trace, 0.0) / squared, math.inf)


def _interval(drawn: Floats) -> tuple[Any, Any]:
    """Return the ends of the interval that draws of a bootstrap show, over their first axis."""
    rest = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [rest, 1 - rest], axis=0, method="inverted_cdf")  # no mean of infinities
    return low, high


@freed_after()
def measure_noise(config: Config, find: CriticalBatchFind, folder: Path) -> GradientNoiseRun:
    """Train a run under its own schedule, scaled to `find.steps`, and measure the gradient noise at each step.

    Args:
        config: of the run.
        find: the length of the measured run.
        folder: of the run; nothing is written there.

    Raises:
        EndedEarlyError: the run ended before its last step.
        LrflowError: the loss became infinite, the noise cannot be measured, or there is no noise or nothing but noise.
    """
    whole = whole_horizon(config, folder)
    try:
        steps = max(1, find.steps.steps(whole))
    except ValueError as error:
        raise LrflowError(f"find.steps={find.steps}: {error}") from error
    recorder, batch = _NoiseRecorder(), 0.0

    def callbacks(trainer: pl.Trainer, data: pl.LightningDataModule, plan: Plan) -> list[pl.Callback]:
        nonlocal batch
        parts = trainer.world_size * trainer.accumulate_grad_batches
        batch = parts * (config.data.batch_size or samples_per_batch(data.train_dataloader()) or 0)
        return [Signals(plan, config.trainer.log_every, 1 if parts > 1 else None, 1), recorder]

    short_fit(
        config,
        config.seed,
        steps,
        folder,
        lambda groups: short_plan(config, groups, config.optimizer.lr, whole, steps),
        callbacks,
    )
    return recorder.noise(batch, config.seed)


class _NoiseRecorder(Monitor):
    """Keeps the estimates of each step, and stops the run at the first loss that is not finite."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._diverged: int | None = None

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        if block.noise is None:
            raise LrflowError(UNMEASURABLE)
        self._blocks.append(block)
        if not np.isfinite(block.losses).all():
            self._diverged = block.first + int(np.argmin(block.skipped | np.isfinite(block.loss)))
            trainer.stop(SHORT_RUN_DONE)  # type: ignore[attr-defined]

    def noise(self, batch: float, seed: int) -> GradientNoiseRun:
        """Return what was measured; raises LrflowError if that is nothing."""
        if self._diverged is not None:
            raise LrflowError(f"the loss is not finite at step {self._diverged}: take a lower optimizer.lr")
        found = [(block.first + block.noise.rows, block.noise) for block in self._blocks if block.noise]
        if not batch or not sum(len(rows) for rows, _ in found):
            raise LrflowError(UNMEASURABLE)
        steps = np.concatenate([rows for rows, _ in found])
        trace, squared = (np.concatenate([getattr(one, name) for _, one in found]) for name in ("trace", "squared"))
        known = np.isfinite(trace) & np.isfinite(squared)
        run = GradientNoiseRun(steps[known], trace[known], squared[known], batch, seed)
        if not len(run.steps) or run.critical == math.inf:
            raise LrflowError("the gradients are noise alone at this batch: measure with a larger data.batch_size")
        if run.critical == 0:
            raise LrflowError("the gradients have no noise at this batch: measure with a smaller data.batch_size")
        return run

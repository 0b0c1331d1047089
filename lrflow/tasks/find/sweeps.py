"""The sweeps of a range test: how long they are, what they start from, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrflow.config import Config, locate
from lrflow.config.find import RangeFind
from lrflow.config.targets import optimizer_traits
from lrflow.errors import ConfigError, Problem
from lrflow.memory import freed_after
from lrflow.metric import is_validation
from lrflow.runs import find_checkpoint
from lrflow.schedules import Horizon
from lrflow.tasks import build
from lrflow.tasks.find.brief import short_fit, whole_horizon
from lrflow.training.resume import Resumed
from lrflow.tuning.metrics import readers
from lrflow.tuning.range_test import RangeSweep, RangeTest, sweep_plan


def run_sweeps(
    config: Config, find: RangeFind, folder: Path, each: Callable[[Iterable[int]], Iterable[int]] = iter
) -> RangeTest:
    """Run all sweeps.

    Args:
        config: of the run.
        find: the range, and what is read.
        folder: of the run; nothing is written there.
        each: goes through the seeds, and may show how far it is.

    Raises:
        ConfigError: the sweeps are too short to be read, or the checkpoint that they start from does not fit.
        LrflowError: the checkpoint is of another model, or nothing logs the metric.
        EndedEarlyError: something else than a sweep's readings ended it.
    """
    start = _start(config) if config.task.name == "find" else None
    whole = Horizon(1) if find.in_steps and start is None else whole_horizon(config, folder)
    points, every = find.sweep_length(whole)
    if start:
        _check_position(config, find, start, whole)
    rates = np.geomspace(find.low, find.high, points)
    seeds = range(config.seed, config.seed + find.sweep_count)
    readings = [_sweep(config, find, rates, every, seed, folder, start) for seed in each(seeds)]
    return RangeTest(rates, np.array(readings), every)


def _start(config: Config) -> Resumed | None:
    """The checkpoint that every sweep starts from; None: each has a new model."""
    if config.resume.source is None:
        return None
    start = Resumed.read(find_checkpoint(config.resume.source, Path(config.output), "resume.from"), locate)
    start.check_config(build.plain_config(config), optimizer_traits)
    return start


def _check_position(config: Config, find: RangeFind, start: Resumed, whole: Horizon) -> None:
    """See that the place of the checkpoint in the data is one that the sweeps can start from."""
    start.horizon(whole, None, whole.steps, config.trainer.accumulate_grad_batches)
    if start.position.batch and find.reading_interval.unit == "epochs":
        message = f"stands within an epoch, and {find.monitor} is read at the ends of epochs"
        hint = "take a checkpoint of an epoch's end (trainer.checkpoint.every='1 epoch')"
        raise ConfigError([Problem("resume.from", message, str(start.path), hint)])


@freed_after()
def _sweep(
    config: Config,
    find: RangeFind,
    rates: npt.NDArray[np.float64],
    every: int,
    seed: int,
    folder: Path,
    start: Resumed | None,
) -> npt.NDArray[np.float64]:
    """The readings of one sweep: of a new model or one that goes on, on data in an order of its own; [n]."""
    sweep = RangeSweep(rates, find.metric.sign)
    steps = len(rates) * every
    short_fit(
        config,
        seed,
        steps,
        folder,
        lambda groups: sweep_plan(groups, config.optimizer.lr, find.low, find.high, steps, every),
        lambda _, __, plan: readers(sweep, find.monitor, every, plan),
        val_every=every if is_validation(find.monitor) else None,
        start=start,
    )
    return sweep.readings

"""How long a range test is, what it reads, and what it does not go together with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrflow.config.settings import RangeFind
from lrflow.errors import ConfigError, Problem
from lrflow.metric import TRAIN_LOSS, is_validation
from lrflow.schedules import Duration, Horizon

if TYPE_CHECKING:
    from lrflow.config.config import Config

FEWEST_READINGS = 40
"""Of a sweep: with fewer there is no curve to read."""
FEWEST_RUNS = 3
"""Of `find.confirm`."""


def check_find(config: Config, horizon: Horizon | None) -> list[Problem]:
    """What of a range test cannot be.

    Args:
        config: of the run.
        horizon: how long the run is; None where that is not known yet.
    """
    find = config.find
    if not isinstance(find, RangeFind):
        return []
    problems = []
    if find.low >= find.high:
        problems.append(Problem("find.high", f"expected more than find.low, {find.low:g}", find.high))
    if find.confirm_runs < FEWEST_RUNS:
        message = f"expected at least {FEWEST_RUNS}: a best LR with one on either side"
        problems.append(Problem("find.confirm_runs", message, find.confirm_runs))
    if is_validation(find.monitor) and config.trainer.limit_val_batches == 0:
        message = f"find.monitor={find.monitor} is read from validations, of which there are none"
        problems.append(Problem("trainer.limit_val_batches", message, 0, "give more batches, or leave it out"))
    if find.confirm and config.task.name == "find" and config.resume.source is not None:
        message = "trial runs follow the whole schedule from its start, and this test starts at a checkpoint"
        problems.append(Problem("find.confirm", message, True, "leave out find.confirm or resume"))
    if config.task.name != "plan" and (horizon is not None or in_steps(find)):
        try:
            sweep_length(find, horizon or Horizon(1))
        except ConfigError as error:
            problems += error.problems
    return problems


def sweep_length(find: RangeFind, horizon: Horizon) -> tuple[int, int]:
    """How many readings a sweep has, and how many optimizer steps each of them takes.

    Args:
        find: what is asked for.
        horizon: of the run, whose epochs and shares are counted.

    Raises:
        ConfigError: the readings are too few to be a curve, or their steps cannot be counted.
    """
    lengths, problems = [], []
    for key, given in (("find.every", reading_interval(find)), ("find.steps", find.steps)):
        try:
            lengths.append(max(1, given.steps(horizon)))
        except ValueError as error:
            problems.append(Problem(key, str(error), str(given), "write a number of steps"))
    if problems:
        raise ConfigError(problems)
    every, steps = lengths
    if steps // every < FEWEST_READINGS:
        message = f"expected at least {FEWEST_READINGS} readings of {find.monitor}"
        message += f", one each {every} steps" if every > 1 else ""
        hint = f"find.steps={FEWEST_READINGS * every} or more"
        raise ConfigError([Problem("find.steps", message, str(find.steps), hint)])
    return steps // every, every


def reading_interval(find: RangeFind) -> Duration:
    """How often a sweep reads what it monitors: as `find.every` says, or as the metric comes."""
    if find.every is not None:
        return find.every
    if find.monitor == TRAIN_LOSS:
        return Duration(1, "steps")
    return Duration(5, "steps") if is_validation(find.monitor) else Duration(1, "epochs")


def in_steps(find: RangeFind) -> bool:
    """Whether the length of a sweep and of its readings is known without that of an epoch or of the run."""
    return all(given.unit == "steps" for given in (find.steps, reading_interval(find)))

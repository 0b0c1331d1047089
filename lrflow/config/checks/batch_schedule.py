"""Checks of what does not work with a batch that changes over the run, `schedule.batch`."""

from __future__ import annotations

from collections.abc import Iterator

from lrflow.config.batch_schedule import BY
from lrflow.config.config import Config
from lrflow.config.debugging import makes_short_runs
from lrflow.errors import Problem
from lrflow.schedules.batch_schedule import KEY

OFF = f"leave out {KEY}"


def check_batches(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting that does not work with `schedule.batch`."""
    for index, rule in enumerate(config.layers.rules):
        if rule.schedule is not None and rule.schedule.batch is not None:
            key = f"layers.rules[{index}].schedule.batch"
            yield Problem(key, "the batch is that of the whole run", ..., f"give it as {KEY}")
    if not config.schedule.sizes:
        if config.schedule.batch_by != "auto":
            yield Problem(BY, f"has no effect without {KEY}", config.schedule.batch_by, f"add {KEY}")
        return
    if config.schedule.of_module or config.optimizer.of_module:
        yield Problem(KEY, "the LRs are those of the module's own scheduler, which counts one batch", ..., OFF)
    for key, one in config.optimizer.members.items():
        if one.every > 1:
            yield Problem(f"{key}.every", f"counts steps of one batch, and {KEY} changes it", one.every, OFF)
    if config.scaling.rule == "transfer":
        message = f"the tuned run has one batch, and {KEY} several"
        hint = f"scaling=linear or scaling=sqrt, with scaling.reference, or {OFF}"
        yield Problem("scaling", message, "transfer", hint)
    if config.scaling.batch is not None:
        yield Problem("scaling.batch", f"{KEY} sets the batch", config.scaling.batch, "leave it out")
    for key in ("steps_per_epoch", "samples_per_step"):
        if (value := getattr(config.horizon, key)) is not None:
            yield Problem(
                f"horizon.{key}", f"no such number is fixed, since {KEY} changes the batch", value, "leave it out"
            )
    if makes_short_runs(config):
        message = "a search and short runs train with one batch"
        hint = (
            f"search with schedule.batch=null and the first batch ({config.schedule.sizes[0]}), then train with that LR"
        )
        yield Problem(KEY, message, ..., hint)
    if config.trainer.strategy_name.startswith("deepspeed") and config.schedule.batch_by == "accumulation":
        yield Problem(
            KEY, "DeepSpeed accumulates a fixed number of batches", ..., f"{BY}=loader, or trainer.strategy=ddp"
        )

"""The group `scaling`: how the peak LR follows the batch, where the config asks for it."""

from __future__ import annotations

import math

from lrflow.config.config import Config
from lrflow.errors import ConfigError, Problem
from lrflow.plan.batch_scaling import BatchScaling


def batch_scaling(config: Config, devices: int | None = None) -> BatchScaling | None:
    """What the group `scaling` asks for; None where it asks for nothing.

    Args:
        config: `scaling`, and what the batch is made of: `data.batch_size`, devices, nodes, accumulation.
        devices: processes that train together, all nodes counted; None: as the config says.

    Raises:
        ConfigError: the batch is not known.
    """
    asked, trainer = config.scaling, config.trainer
    if asked.rule == "none" or asked.reference is None:
        return None
    if asked.batch is not None:
        return BatchScaling(asked.rule, asked.batch, asked.reference)
    if config.data.batch_size is None:
        message = f"expected a number of examples: {asked.rule} scaling needs the batch, and the data names none"
        hint = "give data.batch_size where the data takes one, or the examples of an optimizer step: scaling.batch=N"
        raise ConfigError([Problem("scaling.batch", message, None, hint)])
    devices = devices or trainer.processes
    if devices is None:
        message = f"expected a number: {asked.rule} scaling needs to know how many devices there are"
        raise ConfigError([Problem("trainer.devices", message, "auto")])
    counts = {"devices": devices, "accumulated": trainer.accumulate_grad_batches}
    parts = [str(config.data.batch_size), *(f"{count} {what}" for what, count in counts.items() if count > 1)]
    batch = config.data.batch_size * math.prod(counts.values())
    return BatchScaling(asked.rule, batch, asked.reference, " x ".join(parts) if len(parts) > 1 else "")


def check_scaling(config: Config) -> list[Problem]:
    """The group `scaling`: is anything given that does nothing, or missing that it needs?"""
    asked = config.scaling
    if asked.rule == "none":
        given = {"scaling.reference": asked.reference, "scaling.batch": asked.batch}
        hint = "add scaling=linear or scaling=sqrt, or leave it out"
        return [
            Problem(key, "nothing is scaled by the batch", value, hint)
            for key, value in given.items()
            if value is not None
        ]
    if asked.reference is None:
        message = f"expected a number of examples: the batch for which {asked.rule} scaling leaves the LR as it is"
        return [Problem("scaling.reference", message, None)]
    if config.trainer.devices == "auto":
        return []  # the trainer will know
    try:
        batch_scaling(config)
    except ConfigError as error:
        return error.problems
    return []

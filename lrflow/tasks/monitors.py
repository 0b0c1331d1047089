"""The monitors that a config asks for: built in one place, for runs and for the short runs of a sweep."""

from __future__ import annotations

from collections.abc import Collection

import pytorch_lightning as pl

from lrflow.config import Config, instantiate
from lrflow.errors import ConfigError, Problem
from lrflow.training.monitor import Monitor, Watched


def build_monitors(config: Config, run: Watched, only: Collection[str] | None = None) -> list[Monitor]:
    """Build the monitors of a run, and let each see what it watches.

    Args:
        config: of the run.
        run: what they watch.
        only: names in `health`; None: all.

    Returns:
        Those that have something to do, in the order of the config.

    Raises:
        ConfigError: some cannot watch this run, or a node builds no monitor; lists all of them.
    """
    found: list[Monitor] = []
    problems: list[Problem] = []
    for name, node in config.monitors.items():
        if only is not None and name not in only:
            continue
        try:
            monitor = instantiate(node)
            if not isinstance(monitor, Monitor):
                kind = type(monitor).__name__
                message = f"builds {'an' if kind[0] in 'AEIOU' else 'a'} {kind}, which is no lrflow.health.Monitor"
                hint = (
                    "return it from configure_callbacks of your LightningModule"
                    if isinstance(monitor, pl.Callback)
                    else None
                )
                raise ConfigError([Problem(f"health.{name}._target_", message, node["_target_"], hint)])
            if monitor.active:
                monitor.begin(name, run)
                found.append(monitor)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found

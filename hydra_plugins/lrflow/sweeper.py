"""`hydra/sweeper=lrflow`: sweeps by Optuna, resumable, pruned from within the jobs.

Hydra imports this module at each start, whether there is a sweep or not: it stays light. The settings and their
defaults are those of `lrflow.config.sweep.Sweep`, which gives Hydra the option.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LrflowSweeper(Sweeper):
    """Asks Optuna for trials, hands them to Hydra's launcher, tells how they ended.

    Args:
        settings: those of `lrflow.config.sweep.Sweep`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra has to say, and makes the launcher."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the sweep.

        Args:
            arguments: the overrides of the command line.

        Returns:
            how each trial that ran ended.
        """
        from lrflow.sweeps.sweeper import run_sweep

        assert self.launcher is not None
        assert self.config is not None
        assert self.hydra_context is not None
        return run_sweep(self.launcher, self.config, self.hydra_context.config_loader, arguments, self.task_function)

"""`hydra/sweeper=lrflow`: resumable sweeps with Optuna, in which jobs can be pruned.

Hydra imports this module at every start, also without a sweep, so its imports are light. The settings and their
defaults are those of `lrflow.config.schemas.sweep.Sweep`, which registers the option with Hydra.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LrflowSweeper(Sweeper):
    """Asks Optuna for trials, runs them with Hydra's launcher and reports their results to Optuna.

    Args:
        settings: settings of `lrflow.config.schemas.sweep.Sweep`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes and create the launcher."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep.

        Args:
            arguments: overrides of the command line.

        Returns:
            The result of each trial that ran.
        """
        from lrflow.sweeps.sweeper import run_sweep

        assert self.launcher is not None
        assert self.config is not None
        assert self.hydra_context is not None
        return run_sweep(self.launcher, self.config, self.hydra_context.config_loader, arguments, self.task_function)

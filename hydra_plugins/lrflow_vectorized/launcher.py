"""`hydra/launcher=vectorized`: jobs that differ in numbers alone train together, in one process.

Hydra imports this module at each start, whether there is a sweep or not: it stays light. Hydra's loader also does
not take postponed annotations beside a dataclass (1.3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class VectorizedLauncherConf:
    """How jobs train together; the values are checked with the config."""

    _target_: str = "hydra_plugins.lrflow_vectorized.launcher.VectorizedLauncher"
    size: Any = 64  # jobs that train together at most
    measure: Any = True  # try first whether it pays; false: it is taken to


ConfigStore.instance().store(group="hydra/launcher", name="vectorized", node=VectorizedLauncherConf, provider="lrflow")


class VectorizedLauncher(Launcher):
    """Trains the jobs of a sweep together where that can be done and pays, and the others one after the other.

    Args:
        size: jobs that train together at most.
        measure: try first whether it pays.
    """

    def __init__(self, size: int, measure: bool) -> None:
        self.size = size
        self.measure = measure

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra has to say."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs jobs.

        Args:
            job_overrides: of each.
            initial_job_idx: the number of the first.

        Returns:
            how each ended, in their order.
        """
        from lrflow.cli.together import launch

        jobs = dict(enumerate(job_overrides, start=initial_job_idx))
        return launch(jobs, self.hydra_context, self.task_function, self.config, self.size, self.measure)

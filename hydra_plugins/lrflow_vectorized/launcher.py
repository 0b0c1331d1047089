"""`hydra/launcher=vectorized`: trains jobs that differ only in numbers together, in one process.

Hydra imports this module at every start, also without a sweep, so its imports are light. Hydra 1.3.8 cannot load a
plugin module with postponed annotations and a dataclass.
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
    """Settings of the launcher; lrflow checks their values with the config."""

    _target_: str = "hydra_plugins.lrflow_vectorized.launcher.VectorizedLauncher"
    size: Any = 64  # maximum number of jobs that train together
    measure: Any = True  # true: first measure whether training together is faster; false: assume that it is


ConfigStore.instance().store(group="hydra/launcher", name="vectorized", node=VectorizedLauncherConf, provider="lrflow")


class VectorizedLauncher(Launcher):
    """Trains jobs of a sweep together if that is possible and faster, the others one after the other.

    Args:
        size: maximum number of jobs that train together.
        measure: first measure whether training together is faster; False assumes that it is.
    """

    def __init__(self, size: int, measure: bool) -> None:
        self.size = size
        self.measure = measure

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs.

        Args:
            job_overrides: overrides of each job.
            initial_job_idx: number of the first job.

        Returns:
            The result of each job, in order.
        """
        from lrflow.cli.vectorized_launcher import launch

        jobs = dict(enumerate(job_overrides, start=initial_job_idx))
        return launch(jobs, self.hydra_context, self.task_function, self.config, self.size, self.measure)

"""`hydra/sweeper=lrflow`: sweeps by Optuna, resumable, pruned from within the jobs.

Hydra imports this module at each start, whether there is a sweep or not: it stays light. Hydra's loader also does
not take postponed annotations beside a dataclass (1.3.8).
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class PruningConf:
    """See `lrflow.config.sweep.Pruning`."""

    rungs: Any = "validations"  # what trials are compared by; annealed: whole short runs, each annealed to its end
    first: Any = 1 / 9  # share of a run before which none is given up
    reduction: Any = 3  # asha, hyperband: one of so many goes on to a rung so many times as long
    startup: Any = 5  # median: trials that run to their end first
    patience: Any = 3  # patience: validations without improvement
    p: Any = 0.1  # wilcoxon: significance


@dataclass
class SweeperConf:
    """See `lrflow.config.sweep.Sweep`, which checks the values."""

    _target_: str = "hydra_plugins.lrflow.sweeper.LrflowSweeper"
    sampler: Any = "tpe"  # grid | random | qmc | tpe | gp | cmaes | nsga2
    n_trials: Any = None  # in all, those before a resumption included; null: the whole grid, else 20
    metric: Any = None  # a list for several objectives; null: trainer.checkpoint.monitor
    mode: Any = None  # min | max, or one an objective; null: as the runs have it, or by the metric's name
    storage: Any = "journal"  # journal (a file in the sweep folder) | memory | the URL of a database
    study: Any = None  # its name in a database; null: the sweep folder's
    resume: Any = None  # a sweep folder, or last
    seed: Any = 0  # of the sampler
    rank_ended_early: Any = False  # whether trials that ended early are ranked as those that finished
    retries: Any = 2  # how often a trial whose process died is run again
    batch: Any = None  # trials at a time; null: as many as the launcher can use
    pruner: Any = "none"  # none | median | asha | hyperband | wilcoxon | patience
    pruning: PruningConf = field(default_factory=PruningConf)
    params: Any = None  # the search space by key, in Hydra's grammar
    when: Any = None  # parts of it by the choice that they hold under, optimizer=sgd


ConfigStore.instance().store(group="hydra/sweeper", name="lrflow", node=SweeperConf, provider="lrflow")


class LrflowSweeper(Sweeper):
    """Asks Optuna for trials, hands them to Hydra's launcher, tells how they ended.

    Args:
        settings: those of `SweeperConf`.
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

"""The jobs of a sweep, those that can train together first; then all are told of as the basic launcher does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from lrflow.cli.command import composed_job
from lrflow.cli.errors import console
from lrflow.config import Config
from lrflow.errors import ConfigError

if TYPE_CHECKING:
    from hydra.types import HydraContext


def launch(
    jobs: Mapping[int, Sequence[str]],
    context: HydraContext,
    task_function: Callable[..., Any],
    config: DictConfig,
    size: int,
    measure: bool,
) -> list[JobReturn]:
    """Runs the jobs of a sweep.

    Args:
        jobs: the overrides of each, by its number.
        context: Hydra's.
        task_function: lrflow's, which also takes how a job's training has ended already.
        config: of the sweep.
        size: jobs that train together at most.
        measure: try first whether it pays.

    Returns:
        How each ended, in their order.
    """
    from lrflow.tasks.population import train_together

    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    composed = {number: _compose(number, overrides, context, config) for number, overrides in jobs.items()}
    checked = _checked(composed, getattr(task_function, "config_dir", None))
    trained = train_together(checked, size, measure, console().print)
    done = []
    for number, job in composed.items():
        task = partial(task_function, trained=trained.get(number), config=checked.get(number))
        done.append(run_job(task, job, "hydra.sweep.dir", "hydra.sweep.subdir", context))
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    return done


def _compose(number: int, overrides: Sequence[str], context: HydraContext, config: DictConfig) -> DictConfig:
    """A job's config with Hydra's own node."""
    found = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(found):
        found.hydra.job.id = found.hydra.job.num = number
    return found


def _checked(composed: Mapping[int, DictConfig], config_dir: Path | None) -> dict[int, Config]:
    """The checked configs of jobs, without those that have problems: these are told of when the job is run."""
    found = {}
    for number, job in composed.items():
        node: Any = job.hydra
        folder = Path(str(OmegaConf.select(job, "hydra.sweep.dir"))) / str(node.sweep.subdir)
        try:
            found[number] = composed_job(job, node, config_dir)[0].config(folder)
        except ConfigError:
            continue
    return found

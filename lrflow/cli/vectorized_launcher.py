"""The vectorized launcher: train the jobs that can train together, then run the others, and report each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from lrflow.cli.errors import console
from lrflow.cli.own_process import OwnProcess, can_fork
from lrflow.cli.sweep_job import composed_job
from lrflow.config import Config
from lrflow.errors import ConfigError, ProcessDiedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder

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
    """Run the jobs of a sweep.

    Args:
        jobs: overrides of each job by its number.
        context: context of Hydra.
        task_function: lrflow's task function, which also takes the outcome of a job that is already trained.
        config: config of the sweep.
        size: maximum number of jobs that train together.
        measure: first measure whether training together is faster.

    Returns:
        The result of each job, in order.
    """
    from lrflow.tasks.population import train_together

    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    composed = {number: _compose(number, overrides, context, config) for number, overrides in jobs.items()}
    checked = _checked(composed, getattr(task_function, "config_dir", None))
    begun = {number for number, job in checked.items() if job.run_folder and RunFolder(job.run_folder).config.exists()}
    fresh = {number: job for number, job in checked.items() if number not in begun}
    together = partial(train_together, fresh, size, measure, console().print)
    trained = _apart(together) if getattr(task_function, "isolate", False) and can_fork() else together()
    done = []
    for number, job in composed.items():
        task = partial(task_function, trained=trained.get(number), config=checked.get(number))
        done.append(run_job(task, job, "hydra.sweep.dir", "hydra.sweep.subdir", context))
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    return done


def _apart(together: Callable[[], Mapping[int, Outcome]]) -> Mapping[int, Outcome]:
    """Train jobs together in a process of their own; if it dies, none of them is trained, and each runs alone."""
    try:
        with OwnProcess(lambda _: {number: outcome.picklable() for number, outcome in together().items()}) as process:
            trained: Mapping[int, Outcome] = process(None)
            return trained
    except ProcessDiedError as error:
        console().print(f"jobs that trained together: {error}; they are run one after the other")
        return {}


def _compose(number: int, overrides: Sequence[str], context: HydraContext, config: DictConfig) -> DictConfig:
    """Return the config of a job, with Hydra's own node."""
    found = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(found):
        found.hydra.job.id = found.hydra.job.num = number
    return found


def _checked(composed: Mapping[int, DictConfig], config_dir: Path | None) -> dict[int, Config]:
    """Return the validated configs of jobs; jobs with problems are left out, and report them when they run."""
    found = {}
    for number, job in composed.items():
        node: Any = job.hydra
        folder = Path(str(OmegaConf.select(job, "hydra.sweep.dir"))) / str(node.sweep.subdir)
        try:
            found[number] = composed_job(job, node, config_dir)[0].config(folder)
        except ConfigError:
            continue
    return found

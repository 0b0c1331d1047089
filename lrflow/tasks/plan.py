"""task=plan: print, draw and check every LR of the run before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lrflow import assemble
from lrflow.callbacks import early_ends
from lrflow.config import Config, declared_horizon, load_config, locate, validate
from lrflow.config.checks.keys import settings_of
from lrflow.config.failures import one_line
from lrflow.config.schemas.average import averaging_of
from lrflow.config.schemas.find import StabilityFind
from lrflow.config.transfer import settled
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import did_you_mean_path, is_file, is_folder
from lrflow.health.advice import plan_extras, report_advice
from lrflow.plan import Plan
from lrflow.plan.theory import describe_bound, record_bound
from lrflow.tasks.run_record import log_task, open_folder
from lrflow.training.feedback_loop import make_feedback_loop
from lrflow.training.layer_rules import needs_example
from lrflow.training.loaders import check_intervals, count_horizon, set_up_data
from lrflow.training.trainer import build_trainer
from lrflow.training.trainer_options import lightning_options


class FailedCheckError(LrflowError):
    """Raised when a check of the plan fails."""


def run(config: Config) -> dict[str, Any]:
    """Print the plan, and write it into a run folder of its own.

    Returns:
        `steps`, `fingerprint` and `folder`.

    Raises:
        ConfigError: this configuration has no plan, or the plan to compare it with cannot be read.
        FailedCheckError: a check of the plan fails.
    """
    console = QuietConsole()
    other = read_plan(config.against, Path(config.output)) if config.against else None
    config, plan = _compiled(config, partial(console.print, soft_wrap=True, highlight=False, markup=False))
    console.print(plan.table())
    for line in describe_bound(plan):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if feedback := assemble.build_feedback(config):
        make_feedback_loop(feedback, plan.horizon)  # raises where the times of its validations are unknown
        console.print(f"feedback: {feedback.describe()}; {feedback.lr_range}", soft_wrap=True, highlight=False)
    if averaging := averaging_of(config.average, plan.horizon, config.moving_scalars):
        console.print(averaging.describe(), soft_wrap=True, highlight=False)
    for line in early_ends(config, plan.horizon):
        console.print(line, soft_wrap=True, highlight=False)
    if other:
        console.print(plan.diff(other))
    folder = open_folder(config, None, f"plan-{config.title}")
    extras = {**plan_extras(config, plan, plan.horizon), "theory": record_bound(plan)}
    written = plan.write(folder.path, extras) if folder.is_written else []
    if config.find.check and isinstance(config.find, StabilityFind):
        from lrflow.tuning.stability import find_ceiling  # here, since it imports the trainer

        find_ceiling(config, config.find, folder.path, console, plan)
        written = [*written, folder.path / "find.json"]
    log_task(config, folder)
    names = ", ".join(path.name for path in written)
    if written:
        console.print(f"{folder.path}/: {names}", soft_wrap=True, highlight=False, markup=False)
    if failed := [check for check in plan.check() if not check.ok]:
        raise FailedCheckError("\n".join(f"{check.name}: {check.detail}" for check in failed))
    return {"steps": plan.horizon.steps, "fingerprint": plan.fingerprint, "folder": str(folder.path)}


def compile_plan(config: Config, report: Callable[[Any], None] = lambda _: None) -> Plan:
    """Compile the plan of a configuration.

    The data is read where the config does not determine the length of the run, or where layers are ordered by their
    use; with `horizon.steps` it is never read.

    Args:
        config: the configuration of the run.
        report: prints remarks on the plan, such as a rescaled peak.

    Raises:
        ConfigError: the rules, the schedule and the length of the run are incompatible.
    """
    return _compiled(config, report)[1]


def _compiled(config: Config, report: Callable[[Any], None]) -> tuple[Config, Plan]:
    """Return the config, whose LR is a number also if it is that of another run, and its plan."""
    pl.seed_everything(config.seed, verbose=False)
    horizon, data = declared_horizon(config), None
    if horizon is None:  # counted for the devices of the run, without starting its processes
        processes = _processes(config)
        overfit = config.trainer.overfit_batches
        data = set_up_data(assemble.build_data(config), None, config.seed, processes=processes, overfit=overfit)
        horizon = count_horizon(config, data, processes)
    elif config.horizon.steps is None and needs_example(config):
        with suppress(LrflowError, OSError):  # the rest of the plan needs no data
            data = set_up_data(assemble.build_data(config), None, config.seed)
    config = settled(config, horizon, report)
    module = assemble.build_module(config, trainer=assemble.cpu_trainer(config, horizon), data=data, report=report)
    groups = assemble.build_groups(config, module, report=report, data=data, horizon=horizon)
    schedule = assemble.build_schedule(config)
    with check_intervals(config, horizon) if config.horizon.steps is None else nullcontext():
        plan = Plan.compile(groups, schedule, horizon, settings_of(config.optimizer), config.planned_scalars)
        assemble.check_plan(config, plan)
    report_advice(config, plan, horizon, report)
    return config, plan


def read_plan(against: str, output: Path) -> Plan:
    """Read the plan that the run's plan is compared with.

    Args:
        against: a run folder, a plan.json, a config file, or `last`: the newest run that has a plan.
        output: the folder that holds the run folders.

    Raises:
        ConfigError: there is no such plan; every problem has the key `against`.
    """
    path = _newest_plan(output) if against == "last" else Path(against)
    if is_folder(path):
        path = path / "plan.json"
        if not is_file(path):
            raise _invalid(path.parent, "expected a run folder with a plan, and it has no plan.json")
    if path.suffix not in _READERS or not is_file(path):
        message = "expected a run folder, a plan.json or a config file that exists, or `last`"
        raise ConfigError([Problem("against", message, str(path), did_you_mean_path(path))])
    try:
        return _READERS[path.suffix](path)
    except ConfigError as error:
        # The keys of these problems belong to the other run; the command line would look for them in this one.
        raise _invalid(path, *(str(replace(problem, hint=None, where=None)) for problem in error.problems)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(path, f"cannot be read: {one_line(error)}") from error


def _newest_plan(output: Path) -> Path:
    plans = [*output.glob("*/plan.json"), *output.glob("sweeps/*/*/plan.json")]
    if not plans:
        raise _invalid("last", f"expected a run with a plan under {output}/, and there is none")
    return max(plans, key=lambda path: (path.stat().st_mtime, path))


def _read_json(path: Path) -> Plan:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "version" not in data:
        raise ValueError("it is not a plan.json")
    return Plan.from_dict(data, resolve=locate)


def _read_yaml(path: Path) -> Plan:
    return compile_plan(validate(load_config(path), None))


_READERS = {".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml}


def _invalid(given: str | Path, *messages: str) -> ConfigError:
    return ConfigError([Problem("against", message, str(given)) for message in messages])


def _processes(config: Config) -> int:
    """The number of processes that train; where the config leaves it open, the number that a trainer here would use."""
    return config.trainer.processes or build_trainer(lightning_options(config), Path(config.output), [], 1).world_size

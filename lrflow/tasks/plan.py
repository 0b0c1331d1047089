"""task=plan: print, draw and check every LR of the run before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from lrflow.config import Config, declared_horizon, load_config, locate, validate
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.plan import Plan
from lrflow.runs import RunFolder
from lrflow.schedules import Horizon
from lrflow.tasks import build


class FailedCheckError(LrflowError):
    """The plan does not hold what was checked of it."""


def run(config: Config) -> dict[str, Any]:
    """Show the plan, and write it into a run folder of its own.

    Returns:
        `steps`, `fingerprint` and `folder`.

    Raises:
        ConfigError: there is no plan under this configuration.
        FailedCheckError: there is one, and a check fails on it.
    """
    console = Console()
    plan = compile_plan(config)
    console.print(plan.table())
    if config.against:
        console.print(plan.diff(read_plan(Path(config.against))))
    folder = RunFolder.claim(config.run_folder) if config.run_folder else None
    folder = folder or RunFolder.create(Path(config.output), f"plan-{config.title}")
    written = plan.write(folder.path)
    names = ", ".join(path.name for path in written)
    console.print(f"{folder.path}/: {names}", soft_wrap=True, highlight=False)
    if failed := [check for check in plan.check() if not check.ok]:
        raise FailedCheckError("\n".join(f"{check.name}: {check.detail}" for check in failed))
    return {"steps": plan.horizon.steps, "fingerprint": plan.fingerprint, "folder": str(folder.path)}


def compile_plan(config: Config) -> Plan:
    """The plan of a configuration; its data is read only where the config does not say how long the run is.

    Raises:
        ConfigError: the rules, the schedule and the run's length do not go together.
    """
    pl.seed_everything(config.seed, verbose=False)
    horizon = declared_horizon(config) or _horizon_of_data(config)
    module = build.build_module(config)
    groups = build.build_groups(config, module)
    schedule = build.build_schedule(config)
    plan = Plan.compile(groups, schedule, horizon)
    build.check_plan(plan)
    return plan


def read_plan(path: Path) -> Plan:
    """The plan of a run folder, of a plan.json, or of a config file.

    Raises:
        ConfigError: there is none.
    """
    if path.is_dir():
        path = path / "plan.json"
    if not path.is_file():
        message = "expected a run folder, a plan.json or a config file that exists"
        raise ConfigError([Problem("against", message, str(path))])
    if path.suffix == ".json":
        try:
            return Plan.from_dict(json.loads(path.read_text()), resolve=locate)
        except json.JSONDecodeError as error:
            raise ConfigError([Problem("against", f"broken JSON: {error}", str(path))]) from error
    return compile_plan(validate(load_config(path), None))


def _horizon_of_data(config: Config) -> Horizon:
    data = build.build_data(config)
    with build.one_at_a_time("data"):
        data.prepare_data()
    data.setup("fit")
    return build.count_horizon(config, data, 1)

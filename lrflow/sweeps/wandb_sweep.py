"""A search of lrflow's as a sweep of Weights & Biases, whose agents run lrflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lrflow.config.composition.overrides import Override
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import write_whole
from lrflow.redaction import redact
from lrflow.sweeps.folders import RECORD, overrides_of_grid, read_record
from lrflow.sweeps.results import SweepResults, number_or_none
from lrflow.sweeps.space import Axis, Space, read_space

FILE = "wandb-sweep.yaml"
"""File name of the sweep of W&B, in the sweep folder."""

METHODS = {"grid": "grid", "random": "random", "qmc": "random"}
"""W&B's method by lrflow's sampler; of any other sampler it is `bayes`."""

COMMAND = ("${env}", "python", "-m", "lrflow")
"""How an agent starts lrflow; `${env}` passes W&B's environment."""


def write_wandb_sweep(sweep: SweepResults) -> Path:
    """Write the search of a sweep folder as a sweep of W&B, `wandb-sweep.yaml`.

    Raises:
        ConfigError: W&B's sweeps have no such search.
        LrflowError: the folder has no record of a search.
    """
    text = yaml.safe_dump(redact(as_wandb_sweep(sweep)), sort_keys=False, allow_unicode=True, width=120)
    head = f"# The search of this sweep for W&B: wandb sweep {FILE}; then wandb agent ID on each machine.\n"
    return write_whole(sweep.folder / FILE, head + text)


def as_wandb_sweep(sweep: SweepResults) -> dict[str, Any]:
    """Return the config of a sweep of W&B with the search space, the objective and the fixed overrides of a sweep.

    Args:
        sweep: by whose first objective W&B searches, too.

    Raises:
        ConfigError: an axis has a condition, which W&B's sweeps do not have.
        LrflowError: the folder has no record of a search.
    """
    record = read_record(sweep.folder)
    settings = record.get("settings", {})
    typed = record.get("overrides") or overrides_of_grid(sweep.folder)
    if typed is None:
        raise LrflowError(f"{sweep.folder}: has no record of a search ({RECORD} or multirun.yaml)")
    space = read_space(settings.get("params"), settings.get("when"), _of_runs(typed))
    problems = [
        Problem(axis.key, "W&B's sweeps have no conditions", str(axis.when), "search each option in a sweep of its own")
        for axis in space.axes
        if axis.when
    ]
    if problems:
        raise ConfigError(problems)
    objective, count = sweep.objectives[0], settings.get("n_trials")
    return {
        "name": sweep.folder.name,
        "method": METHODS.get(settings.get("sampler") or "grid", "bayes"),
        "metric": {"name": objective.name, "goal": "minimize" if objective.mode == "min" else "maximize"},
        **({"run_cap": count} if count else {}),
        "parameters": {axis.key: _parameter(axis) for axis in space.axes},
        "command": [*COMMAND, *_fixed(space), "${args_no_hyphens}"],
    }


def _of_runs(typed: Sequence[str]) -> list[Override]:
    """Return the overrides of the runs: without those of the sweep, of Hydra and of the task that wrote them."""
    given = [Override.read(text) for text in typed]
    return [one for one in given if not one.of_hydra and one.key.partition(".")[0] not in ("sweep", "task")]


def _fixed(space: Space) -> list[str]:
    """Return the overrides that all runs share; they log to W&B."""
    fixed = [text.removeprefix("++") for text in space.fixed]
    chosen = [text for text in fixed if text.startswith("logger=")]
    return (
        fixed if any("wandb" in text for text in chosen) else [*(t for t in fixed if t not in chosen), "logger=wandb"]
    )


def _parameter(axis: Axis) -> dict[str, Any]:
    """Return an axis in W&B's words."""
    if axis.choices:
        return {"values": [_value(text) for text in axis.choices]}
    if axis.log:
        whole = {"q": 1} if axis.integer else {}
        kind = "q_log_uniform_values" if axis.integer else "log_uniform_values"
        return {"distribution": kind, "min": axis.low, "max": axis.high, **whole}
    return {"distribution": "int_uniform" if axis.integer else "uniform", "min": axis.low, "max": axis.high}


def _value(text: str) -> Any:
    """Return a choice as a number, if it is one: W&B draws and compares numbers."""
    number = number_or_none(text)
    return text if number is None else int(number) if text.lstrip("-").isdecimal() else number

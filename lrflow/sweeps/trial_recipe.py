"""Write the config of a trial as a recipe that runs it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrflow.config import Config, load_config
from lrflow.config.composition.overrides import Override
from lrflow.config.differences import OwnSettings, composed, differences
from lrflow.config.origins import as_yaml, schema_line
from lrflow.config.validation import META
from lrflow.errors import LrflowError
from lrflow.files import write_whole
from lrflow.metric import Metric
from lrflow.sweeps.results import SweepResults, TrialResult

BEST = "best"


def write_recipe(sweep: SweepResults, trial: TrialResult, name: str = BEST) -> Path:
    """Write the config of a trial as `recipe/NAME.yaml` in the sweep folder.

    The recipe holds the trial's options and the values that differ from them. A group is written in full if its option
    is not one of lrflow's own or if keys were deleted from it, so that the recipe needs no other config folder.

    Args:
        sweep: of the trial.
        trial: to run again.
        name: of the recipe.

    Returns:
        the file.

    Raises:
        LrflowError: the config of the trial cannot be read, or a recipe cannot reproduce it.
    """
    path = sweep.folder / "recipe" / f"{name}.yaml"
    try:
        saved = load_config(trial.folder / "config.yaml")
        own = OwnSettings.of(saved)
        config, chosen, defaults = _with_mode(own.content, saved[META].get("metrics") or {}), own.options, own.defaults
        whole = [group for group in Config.groups if group in config and _is_custom(config, defaults, chosen, group)]
        options = {group: option for group, option in chosen.items() if group not in whole} | dict.fromkeys(whole)
        content = {"defaults": [{f"override /{group}": option} for group, option in options.items()]} if options else {}
        values = differences(config, {key: value for key, value in defaults.items() if key not in whole})
        names = [each.name for each in sweep.objectives if each.name in trial.metrics]
        metrics = "".join(f", {name} {trial.spread(name) or f'{trial.metrics[name]:.4g}'}" for name in names)
        head = [
            f"Trial {trial.number} of a sweep: {trial.status}{metrics}",
            command(sweep, name),
        ]
        path.parent.mkdir(exist_ok=True)
        text = as_yaml({**content, **values})
        comments = "".join(f"# {line}\n" for line in head)
        write_whole(path, f"# @package _global_\n{schema_line(path.parent)}{comments}{text}")
        if differing := differences(config, composed([Override("recipe", name)], sweep.folder)):
            raise LrflowError(f"a recipe cannot hold {', '.join(differing)}")
    except Exception as error:
        path.unlink(missing_ok=True)
        reason = str(error).partition("\n")[0]
        raise LrflowError(f"trial {trial.number} cannot be written as a recipe: {reason}") from error
    return path


def command(sweep: SweepResults, name: str = BEST) -> str:
    """Return the command that runs the trial of a recipe again."""
    return f"python -m lrflow --config-dir {shlex.quote(str(sweep.folder))} recipe={name}"


def _is_custom(
    config: Mapping[str, Any], defaults: Mapping[str, Any], chosen: Mapping[str, str | None], group: str
) -> bool:
    """Whether a group cannot be written as one of lrflow's options with changed and added keys."""
    return chosen.get(group, "") is None or not _has_all_keys(config[group], defaults.get(group))


def _has_all_keys(config: Any, defaults: Any) -> bool:
    """Whether a config has every key of the defaults."""
    if not isinstance(defaults, Mapping):
        return True
    return isinstance(config, Mapping) and all(
        key in config and _has_all_keys(config[key], value) for key, value in defaults.items()
    )


def _with_mode(content: dict[str, Any], modes: Mapping[str, str]) -> dict[str, Any]:
    """Return the config with the mode of the checkpoints' metric, if only the sweep defined it."""
    checkpoint = content["trainer"].get("checkpoint", {})
    name = checkpoint.get("monitor")
    if checkpoint.get("mode") is None and modes.get(name) not in (None, Metric.parse(str(name)).mode):
        checkpoint["mode"] = modes[name]
    return content

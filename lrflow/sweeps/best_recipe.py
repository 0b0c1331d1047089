"""Writes a trial of a sweep as a recipe that runs it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lrflow.config import Config, load_config
from lrflow.config.composition import composer
from lrflow.config.interpolation import settle
from lrflow.config.options import ACROSS_GROUPS
from lrflow.config.overrides import Override
from lrflow.config.validation import META
from lrflow.errors import LrflowError
from lrflow.files import write_whole
from lrflow.metric import Metric
from lrflow.sweeps.results import SweepResults, TrialResult

BEST = "best"
_NOT_OF_THE_JOB = (META, "hydra", "trial", "resume", "output", "against")


def write_recipe(sweep: SweepResults, trial: TrialResult, name: str = BEST) -> Path:
    """Write the config of a trial as `recipe/NAME.yaml` in the sweep folder.

    It holds the options that the trial chose and the values in which it differs from them. A group whose option is not
    one of lrflow's own, or of which keys were deleted, is written as a whole, so that no other folder is needed.

    Args:
        sweep: of the trial.
        trial: to be run again.
        name: of the recipe.

    Returns:
        the file.

    Raises:
        LrflowError: the config of the trial cannot be read, or the recipe would be another run.
    """
    path = sweep.folder / "recipe" / f"{name}.yaml"
    try:
        saved = load_config(trial.folder / "config.yaml")
        wanted = _with_mode(_content(saved), saved[META].get("metrics") or {})
        chosen = _chosen(saved[META].choices)
        usual = _compose([Override(group, option) for group, option in chosen.items() if option])
        whole = [group for group in Config.groups if group in wanted and _is_apart(wanted, usual, chosen, group)]
        options = {group: option for group, option in chosen.items() if group not in whole} | dict.fromkeys(whole)
        content = {"defaults": [{f"override /{group}": option} for group, option in options.items()]} if options else {}
        values = _differences(wanted, {key: value for key, value in usual.items() if key not in whole})
        judged = [each.name for each in sweep.objectives if each.name in trial.metrics]
        told = "".join(f", {metric} {trial.metrics[metric]:.4g}" for metric in judged)
        head = [
            "@package _global_",
            f"Trial {trial.number} of a sweep: {trial.status}{told}",
            command(sweep, name),
        ]
        path.parent.mkdir(exist_ok=True)
        text = OmegaConf.to_yaml(OmegaConf.create({**content, **values}))
        write_whole(path, "".join(f"# {line}\n" for line in head) + text)
        if differing := _differences(wanted, _compose([Override("recipe", name)], sweep.folder)):
            raise LrflowError(f"{', '.join(differing)} cannot be said there")
    except Exception as error:
        path.unlink(missing_ok=True)
        why = str(error).partition("\n")[0]
        raise LrflowError(f"trial {trial.number} cannot be written as a recipe: {why}") from error
    return path


def command(sweep: SweepResults, name: str = BEST) -> str:
    """What runs the trial of a recipe again."""
    return f"python -m lrflow --config-dir {sweep.folder} recipe={name}"


def _chosen(choices: Mapping[str, str | None]) -> dict[str, str | None]:
    """The options of the groups that are not what they are where nothing is said; None: not one of lrflow's own."""
    with _own_hydra(), composer() as composing:
        usual, catalogue = composing(()).choices, composing.catalogue
    changed = {
        group: option
        for group, option in choices.items()
        if group in usual and group not in ACROSS_GROUPS and option != usual[group]
    }
    return {group: option if option in catalogue.options(group) else None for group, option in changed.items()}


def _is_apart(
    wanted: Mapping[str, Any], usual: Mapping[str, Any], chosen: Mapping[str, str | None], group: str
) -> bool:
    """Whether the content of a group is not what an option of lrflow's has, with other values and further keys."""
    return chosen.get(group, "") is None or not _holds_keys(wanted[group], usual.get(group))


def _holds_keys(wanted: Any, usual: Any) -> bool:
    """Whether every key of the one is in the other."""
    if not isinstance(usual, Mapping):
        return True
    return isinstance(wanted, Mapping) and all(
        key in wanted and _holds_keys(wanted[key], value) for key, value in usual.items()
    )


def _compose(overrides: Sequence[Override], folder: Path | None = None) -> dict[str, Any]:
    with _own_hydra(), composer(folder) as composing:
        return _content(composing(overrides).content)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Lets a config be composed within a job that Hydra runs: its state is one for the whole process."""
    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None
    try:
        yield
    finally:
        state.hydra = running


def _content(config: DictConfig) -> dict[str, Any]:
    """What of a config is the job's own, its interpolations unresolved."""
    settle(config)
    content: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in content.items() if key not in _NOT_OF_THE_JOB}


def _with_mode(content: dict[str, Any], noted: Mapping[str, str]) -> dict[str, Any]:
    """The config with the mode of its checkpoints' metric, where only the sweep had given it, against the name."""
    saving = content["trainer"].get("checkpoint", {})
    name = saving.get("monitor")
    if saving.get("mode") is None and noted.get(name) not in (None, Metric.parse(str(name)).mode):
        saving["mode"] = noted[name]
    return content


def _differences(wanted: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are wanted and are not the usual ones."""
    found = {}
    for key, value in wanted.items():
        before = usual.get(key, ...)
        if isinstance(value, dict) and isinstance(before, dict):
            if below := _differences(value, before):
                found[key] = below
        elif value != before or type(value) is not type(before):
            found[key] = value
    return found

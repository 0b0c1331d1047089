"""A trial of a sweep as a recipe, which makes that run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lrflow.config import load_config
from lrflow.config.composition import choices_of, composer
from lrflow.config.interpolation import settle
from lrflow.config.validation import META
from lrflow.errors import LrflowError
from lrflow.files import write_whole
from lrflow.sweeps.recorded import Trial
from lrflow.sweeps.results import Sweep

BEST = "best"
_NOT_OF_THE_JOB = (META, "hydra", "trial", "resume", "output", "against")
_WRITTEN_OUT = ("recipe", "fast", "sweep")  # groups that the recipe which is written takes the place of


def write_recipe(sweep: Sweep, trial: Trial, name: str = BEST) -> Path:
    """Write the config of a trial as `recipe/NAME.yaml` in the sweep folder.

    It holds the options that the trial chose and the values in which it differs from them.

    Args:
        sweep: of the trial.
        trial: to be run again.
        name: of the recipe.

    Returns:
        the file.

    Raises:
        LrflowError: no recipe can say it, since the trial took options of another folder, or deleted keys.
    """
    path = sweep.folder / "recipe" / f"{name}.yaml"
    try:
        saved = load_config(trial.folder / "config.yaml")
        if any(text.startswith("~") for text in saved[META].overrides):
            raise LrflowError("a key was deleted")
        wanted, chosen = _content(saved), _chosen(saved[META].choices)
        usual = _compose([f"{group}={option}" for group, option in chosen.items()])
        content = {"defaults": [{f"override /{group}": option} for group, option in chosen.items()]} if chosen else {}
        judged = [each.name for each in sweep.objectives if each.name in trial.metrics]
        told = "".join(f", {metric} {trial.metrics[metric]:.4g}" for metric in judged)
        head = [
            "@package _global_",
            f"Trial {trial.number} of a sweep: {trial.status}{told}",
            command(sweep, name),
        ]
        path.parent.mkdir(exist_ok=True)
        text = OmegaConf.to_yaml(OmegaConf.create({**content, **_differences(wanted, usual)}))
        write_whole(path, "".join(f"# {line}\n" for line in head) + text)
        if differing := _differences(wanted, _compose([f"recipe={name}"], sweep.folder)):
            raise LrflowError(f"{', '.join(differing)} cannot be said there")
    except Exception as error:
        path.unlink(missing_ok=True)
        why = str(error).partition("\n")[0]
        raise LrflowError(f"trial {trial.number} cannot be written as a recipe: {why}") from error
    return path


def command(sweep: Sweep, name: str = BEST) -> str:
    """What runs the trial of a recipe again."""
    return f"python -m lrflow --config-dir {sweep.folder} recipe={name}"


def _chosen(choices: Mapping[str, str | None]) -> dict[str, str | None]:
    """The options of the groups that are not what they are where nothing is said."""
    with _own_hydra(), composer() as composing:
        usual = choices_of(composing(()).hydra)
    known = {group: option for group, option in choices.items() if group in usual and group not in _WRITTEN_OUT}
    return {group: option for group, option in known.items() if option != usual[group]}


def _compose(texts: Sequence[str], folder: Path | None = None) -> dict[str, Any]:
    with _own_hydra(), composer(folder) as composing:
        return _content(composing(texts))


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

"""Saved configs: writing and reading config.yaml, and the config of a resumed or evaluated run.

A resumed run takes the config.yaml of its folder, or else the config in the checkpoint, with the typed overrides on
top.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import lrflow
from lrflow.config.composition.options import ACROSS_GROUPS, COMBINED, Catalogue
from lrflow.config.composition.overrides import Override
from lrflow.config.config import Config
from lrflow.config.debugging import smoke_run
from lrflow.config.earlier import as_now
from lrflow.config.failures import one_line
from lrflow.config.forecast_run import forecast_from
from lrflow.config.origins import READ_ERRORS, as_yaml, schema_line, yaml_problem
from lrflow.config.schemas.task import OF_A_RUN
from lrflow.config.validation import META, record_of, record_problems, validate
from lrflow.errors import ConfigError, Problem
from lrflow.files import is_file, is_folder, write_whole
from lrflow.redaction import redact
from lrflow.runs import OUTPUT, RunFolder, checkpoints_in, find_checkpoint
from lrflow.seal import find_damage, newest_undamaged

log = logging.getLogger("lrflow")

_OF_THE_NEW_RUN = ("resume", "against", "trial")
"""Keys that are never taken from an earlier run."""


def save_config(config: Config, path: Path, home: Path | None = None) -> None:
    """Write a config to a file, with its interpolations and without secrets.

    Args:
        config: validated config.
        path: the file; replaced atomically.
        home: folder to which it is moved later; None: it stays where it is.
    """
    write_whole(path, schema_line(home or path.parent) + config_text(config))


def config_text(config: Config) -> str:
    """Return the content of config.yaml: a config with its interpolations and without secrets."""
    content: Any = OmegaConf.to_container(config.source, resolve=False)
    meta = {
        "version": lrflow.__version__,
        "choices": config.choices,
        "overrides": config.overrides,
        "metrics": config.directions.metrics(),
        "run_folder": None if config.run_folder is None else str(config.run_folder),
    }
    text = as_yaml(redact({**content, META: meta}))
    return f"# The config of this run; `{META}` says what it was composed of.\n{text}"


def load_config(path: Path) -> DictConfig:
    """Read a config that `save_config` wrote, for `validate`.

    Raises:
        ConfigError: the file cannot be read or contains no config.
    """
    try:
        found = OmegaConf.load(path)
    except (*READ_ERRORS, OmegaConfBaseException, ValueError) as error:  # ValueError: a number of too many digits
        problem = yaml_problem(error) or Problem("config", f"cannot be read: {one_line(error)}", str(path))
        raise ConfigError([problem]) from None
    if not isinstance(found, DictConfig) or "optimizer" not in found:
        raise ConfigError([Problem("config", "expected the whole config of a run, such as its config.yaml", str(path))])
    content: Any = OmegaConf.to_container(found)
    if problems := record_problems(content, path):
        raise ConfigError(problems)
    return as_now(found)


def load_config_in(path: Path) -> DictConfig:
    """Read the config in a checkpoint, for a run without config.yaml; its options and overrides are unknown.

    Raises:
        ConfigError: the file is not a checkpoint of lrflow, or contains no config.
    """
    import torch

    if damage := find_damage(path):
        raise ConfigError([Problem("resume", damage, str(path), "give a run folder or a checkpoint")])
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch.load raises many types
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("lrflow"), dict):
        message = "is not a checkpoint of lrflow, and only those can be resumed"
        weights = content is not None and not isinstance(content, torch.Tensor)
        hint = f"model.init_from={path} starts a new run from its weights" if weights else None
        raise ConfigError([Problem("resume", message, str(path), hint or "give a run folder or a checkpoint")])
    config = content["lrflow"].get("config")
    if not isinstance(config, dict) or "optimizer" not in config:
        message = "its run has no config.yaml, and the checkpoint contains no config"
        hint = "put the run's config.yaml back into its folder, the parent of checkpoints/"
        raise ConfigError([Problem("resume", message, str(path), hint)])
    _report_config_in(path, path.absolute())
    return as_now(OmegaConf.create(config))


@cache
def _report_config_in(path: Path, unique: Path) -> None:
    log.warning("there is no %s: using the config in the checkpoint", RunFolder.of(path).config)


@dataclass(frozen=True)
class Composed:
    """The composed config of a job, before it is checked.

    Args:
        content: config with Hydra's own node; interpolations are unresolved.
        choices: option of each group.
        overrides: overrides of the earlier run, then those typed, without the ones that name the run or its trial.
        earlier: config.yaml or checkpoint of the run that is resumed or evaluated; None: there is none.
        replaced: keys that are not taken from the earlier run: groups with another option, and `resume`, `against` and
            `trial`.
        recorded_modes: mode of each metric as the earlier run recorded it; None without an earlier run.
        full_run: returns the config of the same run without `fast=true`, or None if that is invalid; None: unknown.
    """

    content: DictConfig
    choices: Mapping[str, str | None]
    overrides: Sequence[str]
    earlier: Path | None = None
    replaced: frozenset[str] = frozenset()
    recorded_modes: Mapping[str, str] | None = None
    full_run: Callable[[], Config | None] | None = None

    def config(self, run_folder: Path | None = None) -> Config:
        """Return the checked config.

        Args:
            run_folder: run folder that a sweep assigns to this job.

        Raises:
            ConfigError: every problem of the config.
        """
        is_fast = self.choices.get("fast") == "on"
        return smoke_run(self.content, is_fast, lambda: self._config(run_folder), self.full_run)

    def _config(self, run_folder: Path | None) -> Config:
        return validate(self.content, self.choices, self.overrides, run_folder, self.recorded_modes)


def pinned(overrides: Sequence[Override]) -> list[Override]:
    """Return the overrides with the run that they evaluate replaced by its checkpoint, and one to resume by its folder.

    Otherwise `resume=last` would find the new run's own folder, and jobs of a sweep would find each other's.

    Args:
        overrides: overrides as typed, with short forms expanded.

    Raises:
        ConfigError: no run or several runs match.
    """
    found = _named(overrides)
    if found is None:
        return list(overrides)
    key, source = found
    rest = [override for override in overrides if override.key not in ("resume.from", "task.from")]
    checkpoint = _checkpoint(overrides, key, source)
    if source == "last":
        warn_of_newer_run(checkpoint, _output(overrides), _typed_key(key))
    if key == "resume.from" and not Path(source).is_file():  # which of its checkpoints is whole is known later
        return [*rest, Override.path(key, RunFolder.of(checkpoint).path)]
    return [*rest, Override.path(key, checkpoint)]


def earlier_run(overrides: Sequence[Override]) -> Path | None:
    """Return the file with the config of the run that is resumed or evaluated; None if no run is.

    The file is the run's config.yaml, or its checkpoint if there is none.

    Raises:
        ConfigError: the run does not exist.
    """
    found = _named(overrides)
    if found is None:
        return forecast_from(overrides)
    source = _config_of(_checkpoint(overrides, *found))
    return None if source.name != "config.yaml" and _names_recipe(overrides) else source


def _names_recipe(overrides: Sequence[Override]) -> bool:
    """Return whether a recipe is typed.

    A checkpoint does not record its recipe. If its run has no config.yaml, a typed recipe replaces the config in the
    checkpoint.
    """
    return any(override.key == "recipe" for override in overrides)


def _config_of(checkpoint: Path) -> Path:
    """Return the config.yaml of a checkpoint's run, or the checkpoint itself if there is none."""
    path = RunFolder.of(checkpoint).config
    if path.is_file():
        return path
    saved = checkpoints_in(checkpoint.parent)
    return (newest_undamaged(saved) if checkpoint in saved[-1:] else None) or checkpoint


def of_this_run(override: Override) -> bool:
    """Return whether Hydra composes an override even if there is an earlier run.

    These are choices of options, Hydra's own settings, and the keys that start or name a run.
    """
    first = override.key.partition(".")[0]
    return override.sign == "" or override.of_hydra or first in (*_OF_THE_NEW_RUN, "task")


def completed(
    content: DictConfig, node: Any, overrides: Sequence[Override], earlier: Path | None, catalogue: Catalogue
) -> Composed:
    """Return the config of a job: what Hydra composed, or the earlier run's config with the overrides applied.

    A typed value replaces the run's own. Another option of a group replaces the whole group, and with it the groups
    whose options the new or the old option selects.

    Args:
        content: config that Hydra composed of the overrides.
        node: Hydra's node of that config.
        overrides: overrides of the job, as Hydra received them.
        earlier: result of `earlier_run`; None: the job neither resumes nor evaluates a run.
        catalogue: groups and their options.

    Raises:
        ConfigError: the file cannot be read, or the typed recipe is not the run's.
    """
    several = {override.key: override.given for override in overrides if override.key in COMBINED}
    now = dict.fromkeys(COMBINED) | several | choices_of(node)  # Hydra records no list of options
    typed_overrides = [
        override.typed for override in overrides if not override.key.startswith(("trial.", "resume.from"))
    ]
    if earlier is None:
        return Composed(content, now, typed_overrides)
    merged = load_config(earlier) if earlier.name == "config.yaml" else load_config_in(earlier)
    meta = record_of(merged)
    before: dict[str, str | None] = meta.get("choices") or {}
    typed = {override.key for override in overrides if override.sign == "" or override.deletes} & (before | now).keys()
    replaced = _replaced(
        {group for group in typed if before.get(group) != now.get(group)}, typed, before, now, catalogue
    )
    past = [Override.read(text) for text in meta.get("overrides") or ()]
    same = {one.typed for one in past if one.key.partition(".")[0] not in replaced}

    def has_been_applied(override: Override) -> bool:
        chosen = override.key in typed  # the whole group comes from Hydra's composition
        return chosen or override.typed in same  # the run's config.yaml has it

    with open_dict(merged):
        merged.pop(META, None)
        for key in (*replaced, *_OF_THE_NEW_RUN, "hydra"):
            merged.pop(key, None)
            if key in content:
                merged[key] = content._get_node(key)
        for override in overrides:
            if override.sign != "" and not override.of_hydra and not has_been_applied(override):
                _apply(override, merged)
    keys = {override.key for override in overrides}
    gone = (*replaced, *_OF_THE_NEW_RUN, "task", "trust")
    mine = [one for one in past if one.key not in keys and not one.of_hydra]  # Hydra's are of the earlier command
    kept = [one.typed for one in mine if one.key.partition(".")[0] not in gone]
    choices = before | {group: now.get(group) for group in replaced}
    return Composed(
        merged,
        choices,
        [*kept, *typed_overrides],
        earlier,
        frozenset({*replaced, *_OF_THE_NEW_RUN}),
        meta.get("metrics") or {},
    )


def _replaced(
    changed: set[str],
    typed: Collection[str],
    before: Mapping[str, str | None],
    now: Mapping[str, str | None],
    catalogue: Catalogue,
) -> set[str]:
    """Return the groups of an earlier run that are replaced: those changed, and those that their options select.

    Args:
        changed: groups with another option than the run's.
        typed: groups with a typed option.
        before: options of the run.
        now: options of the command line.
        catalogue: groups and their options.

    Raises:
        ConfigError: a changed group sets keys of other groups, as a recipe does.
    """
    problems = []
    for group in changed & set(ACROSS_GROUPS):
        option = catalogue.options(group).get(str(now.get(group)))
        if group == "sweep" and option and option.sets_only_hydra():
            continue
        message = f"the run has {group}={before.get(group) or 'null'}, which cannot be changed when it is resumed"
        hint = "leave it out and override single values, or start a new run"
        problems.append(Problem(group, message, now.get(group), hint))
    if problems:
        raise ConfigError(problems)
    found = changed - set(ACROSS_GROUPS)
    for group in tuple(found):
        for choices in (before, now):
            option = catalogue.options(group).get(str(choices.get(group)))
            brought = option.selected_options() if option else {}
            found |= {other for other, name in brought.items() if choices.get(other) == name and other not in typed}
    return found


def choices_of(node: Any) -> dict[str, str | None]:
    """Return the option of each of lrflow's groups, from Hydra's node of a composed config."""
    choices: Any = OmegaConf.to_container(node.runtime.choices)
    return {group: choice for group, choice in choices.items() if not group.startswith("hydra/") and "@" not in group}


def _named(overrides: Iterable[Override]) -> tuple[str, str] | None:
    """Return the key that names an earlier run and its value; None if no run is resumed or evaluated."""
    given = {override.key: override for override in overrides}
    resumed = given.get("resume.from")
    resumed = None if resumed is None or resumed.value == "null" else resumed
    if "task" in given and given["task"].value in OF_A_RUN:
        if resumed is not None:
            return None  # the checks report the combination
        return "task.from", _path(given["task.from"]) if "task.from" in given else "last"
    return ("resume.from", _path(resumed)) if resumed is not None else None


def _path(override: Override) -> str:
    """Return the path that an override sets, without quotes; a folder's name may contain a comma.

    Raises:
        ConfigError: the override has several values.
    """
    if is_file(Path(override.given)) or is_folder(Path(override.given)):
        return override.given
    if override.is_swept:
        message = "cannot be swept, since each run has its own config"
        hint = "give one run, and start lrflow once per run"
        raise ConfigError([Problem(_typed_key(override.key), message, override.value, hint)])
    return override.plain


def _checkpoint(overrides: Sequence[Override], key: str, source: str) -> Path:
    return find_checkpoint(source, _output(overrides), _typed_key(key))


def _output(overrides: Sequence[Override]) -> Path:
    return Path(next((override.plain for override in overrides if override.key == "output"), OUTPUT))


def warn_of_newer_run(checkpoint: Path, output: Path, key: str) -> None:
    """Warn if a run began after the newest checkpoint, for which `KEY=last` stands, and has none of its own."""
    plans = [path for way in ("*", "sweeps/*/*") for path in output.glob(f"{way}/plan.json")]
    configs = [RunFolder(plan.parent).config for plan in plans if not checkpoints_in(plan.parent / "checkpoints")]
    began = {path.parent: path.stat().st_mtime for path in configs if is_file(path)}  # task=plan writes none
    newest = max(began, key=began.__getitem__, default=None)
    if newest and began[newest] > checkpoint.stat().st_mtime:
        taken = RunFolder.of(checkpoint).path
        log.warning("%s=last is %s; %s is newer, but has no checkpoint to continue from", key, taken, newest)


def _typed_key(key: str) -> str:
    """Return a key as users usually type it."""
    return "resume" if key == "resume.from" else key


def _apply(override: Override, config: DictConfig) -> None:
    """Set or delete the key of an override."""
    key: str = override.key
    if not override.deletes:
        OmegaConf.update(config, key, override.parsed.value(), merge=True, force_add=True)
        return
    above, _, last = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    if isinstance(node, DictConfig) and last in node:
        with open_dict(node):
            del node[last]

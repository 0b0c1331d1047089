"""Saved configs: writing and reading config.yaml, and the config of a resumed or evaluated run.

A resumed run takes the config.yaml of its folder, or else the config in the checkpoint, with the typed overrides on
top.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

import lrflow
from lrflow.config.config import Config
from lrflow.config.find_schema import RangeFind
from lrflow.config.length import declared_horizon, makes_groups_in_time, shorten
from lrflow.config.options import ACROSS_GROUPS, Catalogue
from lrflow.config.origins import yaml_problem
from lrflow.config.overrides import Override
from lrflow.config.secrets import redact
from lrflow.config.validation import META, validate
from lrflow.errors import ConfigError, Problem
from lrflow.files import write_whole
from lrflow.runs import RunFolder, find_checkpoint

log = logging.getLogger("lrflow")

OUTPUT = "outputs"
"""Default of `output`, the folder of the run folders."""

_FIND_IS_WHOLE = "fast=true: the search for the LR is not shortened; find.sweeps=1 find.steps=40 make it short"

_OF_THE_NEW_RUN = ("resume", "against", "trial")


def save_config(config: Config, path: Path) -> None:
    """Write a config to a file, with its interpolations and without secrets.

    Args:
        config: validated config.
        path: the file; replaced atomically.
    """
    content: Any = OmegaConf.to_container(config.source, resolve=False)
    meta = {
        "version": lrflow.__version__,
        "choices": config.choices,
        "overrides": config.overrides,
        "metrics": config.directions.metrics(),
        "run_folder": None if config.run_folder is None else str(config.run_folder),
    }
    text = OmegaConf.to_yaml(OmegaConf.create(redact({**content, META: meta})))
    write_whole(path, f"# The config of this run; `{META}` says what it was composed of.\n{text}")


def load_config(path: Path) -> DictConfig:
    """Read a config that `save_config` wrote, for `validate`.

    Raises:
        ConfigError: the file cannot be read or contains no config.
    """
    try:
        found = OmegaConf.load(path)
    except Exception as error:
        problem = yaml_problem(error) or Problem("config", f"cannot be read: {error}", str(path))
        raise ConfigError([problem]) from None
    if not isinstance(found, DictConfig) or "optimizer" not in found:
        raise ConfigError([Problem("config", "expected the whole config of a run, such as its config.yaml", str(path))])
    return found


def load_config_in(path: Path) -> DictConfig:
    """Read the config in a checkpoint, for a run without config.yaml; its options and overrides are unknown.

    Raises:
        ConfigError: the checkpoint contains no config.
    """
    import torch

    try:
        found = OmegaConf.create(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["lrflow"]["config"])
        if isinstance(found, DictConfig) and "optimizer" in found:
            return found
        reason = "it contains none"
    except Exception as error:  # torch.load raises many types
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    message = f"its run has no config.yaml, and the config in the checkpoint cannot be read: {reason}"
    hint = "put the run's config.yaml back into its folder, the parent of checkpoints/"
    raise ConfigError([Problem("resume", message, str(path), hint)])


@dataclass(frozen=True)
class Composed:
    """What a job is made of, before it is checked.

    Args:
        content: the config with Hydra's own node, interpolations unresolved.
        choices: the option taken of each group.
        overrides: as typed, without those that name the run or its trial; before them those of the earlier run.
        earlier: the config.yaml of that run, or its checkpoint; None: it goes on with none.
        replaced: keys that are not that run's: groups that were chosen anew, and what starts or names a run.
        recorded_modes: which way of each metric was better in that run, as far as it noted that.
        full_run: gives the config of the same run without `fast=true`, or None; None: nobody knows it.
    """

    content: DictConfig
    choices: Mapping[str, str | None]
    overrides: Sequence[str]
    earlier: Path | None = None
    replaced: frozenset[str] = frozenset()
    recorded_modes: Mapping[str, str] | None = None
    full_run: Callable[[], Config | None] | None = None

    def config(self, run_folder: Path | None = None) -> Config:
        """The checked config.

        Args:
            run_folder: the folder that a sweep gives to this job.

        Raises:
            ConfigError: every problem of it.
        """
        if self.choices.get("fast") != "on":
            return self._config(run_folder)
        config = self._shortened(run_folder)
        searches = config.task.name == "find" or config.finds_lr or config.find.check
        config.remarks.extend([_FIND_IS_WHOLE] if searches and isinstance(config.find, RangeFind) else [])
        return config

    def _shortened(self, run_folder: Path | None) -> Config:
        try:
            config = self._config(run_folder)
        except ConfigError as error:
            if not any(problem.key.startswith(("schedule", "layers")) for problem in error.problems):
                raise
        else:
            if declared_horizon(config) is not None and not makes_groups_in_time(config):
                return config
        remark = shorten(self.content, self.full_run() if self.full_run else None)
        config = self._config(run_folder)
        config.remarks.extend([remark] if remark else [])
        return config

    def _config(self, run_folder: Path | None) -> Config:
        return validate(self.content, self.choices, self.overrides, run_folder, self.recorded_modes)


def pinned(overrides: Sequence[Override]) -> list[Override]:
    """The same overrides with the very checkpoint in the place of the run that they name.

    Otherwise a run that is resumed under `last` would find its own new folder, and the jobs of a sweep each other's.

    Args:
        overrides: as typed, short forms written out.

    Raises:
        ConfigError: there is no such run, or there are several.
    """
    found = _named(overrides)
    if found is None:
        return list(overrides)
    key, source = found
    rest = [override for override in overrides if override.key not in ("resume.from", "task.from")]
    checkpoint = _checkpoint(overrides, key, source)
    if _config_of(checkpoint) == checkpoint and not _names_recipe(overrides):
        log.warning("there is no %s: using the config in the checkpoint", RunFolder.of(checkpoint).config)
    return [*rest, Override.path(key, checkpoint)]


def earlier_run(overrides: Sequence[Override]) -> Path | None:
    """What holds the config of the run that `resume.from=` or `task=evaluate` names; None where none is named.

    Raises:
        ConfigError: there is no such run.
    """
    found = _named(overrides)
    if found is None:
        return None
    source = _config_of(_checkpoint(overrides, *found))
    return None if source.name != "config.yaml" and _names_recipe(overrides) else source


def _names_recipe(overrides: Sequence[Override]) -> bool:
    """Whether a recipe is typed: beside a checkpoint without its run's config.yaml, the command line says everything.

    A checkpoint does not know which recipe its config came from.
    """
    return any(override.key == "recipe" for override in overrides)


def _config_of(checkpoint: Path) -> Path:
    """The config.yaml of a checkpoint's run folder; the checkpoint itself, where it lies in none or has none."""
    path = RunFolder.of(checkpoint).config
    return path if path.is_file() else checkpoint


def of_this_run(override: Override) -> bool:
    """Whether an override is not about what an earlier run brings: a choice, Hydra's, what starts or names a run."""
    first = override.key.partition(".")[0]
    return override.sign == "" or override.of_hydra or first in (*_OF_THE_NEW_RUN, "task")


def completed(
    content: DictConfig, node: Any, overrides: Sequence[Override], earlier: Path | None, catalogue: Catalogue
) -> Composed:
    """What Hydra composed, on top of the run that it goes on with, if it goes on with one.

    A value that is typed takes the place of the run's own. Another option of a group replaces the whole group, as it is
    composed from its option; the groups that the new or the old option brings along are replaced with it.

    Args:
        content: what Hydra composed of the overrides.
        node: Hydra's node of it.
        overrides: of the job, as Hydra took them.
        earlier: what holds the config of the run; None: there is none.
        catalogue: the groups and options there are.

    Raises:
        ConfigError: the file cannot be read, or a recipe is typed that is not the run's.
    """
    now = choices_of(node)
    typed_overrides = [
        override.typed for override in overrides if not override.key.startswith(("trial.", "resume.from"))
    ]
    if earlier is None:
        return Composed(content, now, typed_overrides)
    merged = load_config(earlier) if earlier.name == "config.yaml" else load_config_in(earlier)
    meta: Any = OmegaConf.to_container(merged[META]) if META in merged else {}
    before: dict[str, str | None] = meta.get("choices") or {}
    typed = {override.key for override in overrides if override.sign == "" or override.deletes} & (before | now).keys()
    replaced = _replaced(
        {group for group in typed if before.get(group) != now.get(group)}, typed, before, now, catalogue
    )
    past = [Override.read(text) for text in meta.get("overrides") or ()]
    same = {one.typed for one in past if one.key.partition(".")[0] not in replaced}

    def has_been_applied(override: Override) -> bool:
        chosen = override.key in typed  # with its group, as Hydra composed that
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
    gone = (*replaced, "task", "resume", "against")
    kept = [one.typed for one in past if one.key not in keys and one.key.partition(".")[0] not in gone]
    choices = before | {group: now.get(group) for group in replaced}
    return Composed(
        merged,
        choices,
        [*kept, *typed_overrides],
        earlier,
        frozenset({*replaced, *_OF_THE_NEW_RUN}),
        meta.get("metrics", {}),
    )


def _replaced(
    changed: set[str],
    typed: Collection[str],
    before: Mapping[str, str | None],
    now: Mapping[str, str | None],
    catalogue: Catalogue,
) -> set[str]:
    """The groups of an earlier run that are chosen anew, with those that their options bring along.

    Args:
        changed: groups of which another option is typed.
        typed: groups of which any option is typed.
        before: the options of the run.
        now: those of the command line.
        catalogue: the groups and options there are.

    Raises:
        ConfigError: recipes and the like, which speak of many groups at once, are among them.
    """
    problems = []
    for group in changed & set(ACROSS_GROUPS):
        option = catalogue.options(group).get(str(now.get(group)))
        if group == "sweep" and option and option.is_of_hydra_alone():
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
            brought = option.brings() if option else {}
            found |= {other for other, name in brought.items() if choices.get(other) == name and other not in typed}
    return found


def choices_of(node: Any) -> dict[str, str | None]:
    """The option taken of each group of lrflow's, from Hydra's node of a composed config."""
    choices: Any = OmegaConf.to_container(node.runtime.choices)
    return {group: choice for group, choice in choices.items() if not group.startswith("hydra/") and "@" not in group}


def _named(overrides: Iterable[Override]) -> tuple[str, str] | None:
    """The key that names an earlier run, and what it says."""
    given = {override.key: override for override in overrides}
    resumed = given.get("resume.from")
    if resumed is not None and resumed.value == "null":
        resumed = None
    if "task" in given and given["task"].value == "evaluate":
        if resumed is not None:
            return None  # which the checks refuse
        return "task.from", _path(given["task.from"]) if "task.from" in given else "last"
    return ("resume.from", _path(resumed)) if resumed is not None else None


def _path(override: Override) -> str:
    """The path that an override gives, without the quotes around it; a folder may have a comma in its name."""
    if Path(override.given).exists():
        return override.given
    if override.is_swept:
        message = "cannot be swept, since each run has its own config"
        hint = "give one run, and start lrflow once per run"
        raise ConfigError([Problem(_typed_key(override.key), message, override.value, hint)])
    return override.plain


def _checkpoint(overrides: Sequence[Override], key: str, source: str) -> Path:
    output = next((override.plain for override in overrides if override.key == "output"), OUTPUT)
    return find_checkpoint(source, Path(output), _typed_key(key))


def _typed_key(key: str) -> str:
    """A key as it is usually typed."""
    return "resume" if key == "resume.from" else key


def _apply(override: Override, config: DictConfig) -> None:
    """Sets or deletes the key of an override."""
    key: str = override.key
    if not override.deletes:
        OmegaConf.update(config, key, override.parsed.value(), merge=True, force_add=True)
        return
    above, _, last = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    if isinstance(node, DictConfig) and last in node:
        with open_dict(node):
            del node[last]

"""Composition of a config from `conf/`, recipes and a user's folder with Hydra, also for the jobs of a sweep."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override as HydraOverride
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig

from lrflow.config.config import Config
from lrflow.config.diagnostics import closest
from lrflow.config.hydra_section import check_hydra, nearest_setting
from lrflow.config.options import FAST, Catalogue, recipes
from lrflow.config.origins import Source, line_with, place, short_path, touches, yaml_problem
from lrflow.config.overrides import Override, Overrides, expand, read_overrides
from lrflow.config.packages import LAUNCHERS, missing_package
from lrflow.config.saved import Composed, completed, earlier_run, of_this_run, pinned
from lrflow.errors import ConfigError, Problem, did_you_mean

MODULE = "lrflow.conf"
ROOT = "config"


def compose(overrides: Sequence[str] = (), config_dir: Path | None = None, earlier: bool = False) -> Config:
    """Compose a config from options and values, and validate it.

    Args:
        overrides: `["optimizer=sgd", "optimizer.lr=0.1"]`.
        config_dir: a folder with more options and recipes.
        earlier: put them on top of the config.yaml of the run that `resume=` or `task=evaluate` names, as the command
            line does; false: nothing is read but options.

    Raises:
        ConfigError: every problem of the overrides and of what they make.
    """
    catalogue = Catalogue([config_dir] if config_dir else [])
    given = expand(overrides)
    with composer(config_dir, catalogue, earlier) as composing:
        return checked(read_overrides(pinned(given) if earlier else given, catalogue), composing)[1]


class Composer:
    """Hydra's composition, within a block of `composer`.

    Args:
        config_dir: a folder with more options and recipes.
        catalogue: the groups and options there are.
        earlier: put overrides on top of the run that they go on with.
    """

    found: Composed | None = None
    """What was composed last."""

    def __init__(self, config_dir: Path | None, catalogue: Catalogue, earlier: bool) -> None:
        self.config_dir, self.catalogue = config_dir.resolve() if config_dir else None, catalogue
        self._earlier = earlier

    def __call__(self, overrides: Sequence[Override]) -> Composed:
        """What these overrides make, with Hydra's own node.

        Raises:
            ConfigError: the run that they go on with cannot be read, or they cannot be put on top of it.
        """
        self.found = None
        self.found = with_whole(self._compose(overrides), overrides, self._compose)
        return self.found

    def _compose(self, overrides: Sequence[Override]) -> Composed:
        earlier = earlier_run(overrides) if self._earlier else None
        asked = [override.text for override in overrides if earlier is None or of_this_run(override)]
        content = hydra.compose(ROOT, [*_search_path(self.config_dir), *asked], return_hydra_config=True)
        return completed(content, content.hydra, overrides, earlier, self.catalogue)

    def place(self, problems: Sequence[Problem], overrides: Sequence[Override]) -> list[Problem]:
        """The problems of what these overrides make, with the file and line that they come from."""
        return placed(problems, overrides, self.config_dir, self.found)


def job_of_sweep(content: DictConfig, node: Any, overrides: Sequence[Override], config_dir: Path | None) -> Composed:
    """What a job of a sweep is made of, which Hydra composed.

    Args:
        content: as Hydra composed it.
        node: Hydra's node of it.
        overrides: of the job, as Hydra took them.
        config_dir: the folder with more options.

    Raises:
        ConfigError: the run that it goes on with cannot be read, or the overrides cannot be put on top of it.
    """
    earlier, catalogue = earlier_run(overrides), Catalogue([config_dir] if config_dir else [])

    def compose_anew(others: Sequence[Override]) -> Composed:
        loader = GlobalHydra.instance().config_loader()
        found = loader.load_configuration(ROOT, [override.text for override in others], RunMode.RUN)
        return completed(found, found.hydra, others, earlier, catalogue)

    return with_whole(completed(content, node, overrides, earlier, catalogue), overrides, compose_anew)


def with_whole(
    found: Composed, overrides: Sequence[Override], compose_anew: Callable[[Sequence[Override]], Composed]
) -> Composed:
    """What was composed, of a smoke run with a way to the config of the run that it stands for.

    Args:
        found: what was composed.
        overrides: that it was composed of.
        compose_anew: composes others.
    """
    rest = [override for override in overrides if override.key != "fast"]
    if len(rest) == len(overrides):
        return found

    def whole() -> Config | None:
        try:
            return compose_anew(rest).config()
        except Exception:  # it has problems of its own
            return None

    return replace(found, whole=whole)


def placed(
    problems: Sequence[Problem], overrides: Sequence[Override], config_dir: Path | None, found: Composed | None
) -> list[Problem]:
    """Problems with the file and line that they come from: a recipe, a file of `config_dir` or an earlier run's.

    Args:
        problems: of a config.
        overrides: that it was composed of, as Hydra took them.
        config_dir: the folder with more options.
        found: what was composed; None: nothing.
    """
    if found is None:
        return list(problems)
    typed = [override.key for override in overrides if override.sign == "++"]
    asked = [override.text for override in overrides if found.earlier is None or of_this_run(override)]
    composed = _sources([*_search_path(config_dir), *asked], config_dir)
    saved = composed if found.earlier is None else []
    if found.earlier is not None and found.earlier.name == "config.yaml":
        saved = [Source(found.earlier, "")]
    return [place(problem, composed if touches(problem.key, found.replaced) else saved, typed) for problem in problems]


def _sources(texts: Sequence[str], config_dir: Path | None) -> list[Source]:
    """The recipes and files of `config_dir` that a composition takes, in its order."""
    loader = GlobalHydra.instance().config_loader()
    defaults = loader.compute_defaults_list(ROOT, list(texts), RunMode.RUN).defaults
    shipped = {f"recipe/{name}": path for name, path in recipes().items()}
    shipped |= {f"fast/on/{name}": path.parent / FAST for name, path in recipes().items()}
    sources = []
    for entry in defaults:
        name = str(entry.config_path)
        if name in shipped:
            sources.append(Source(shipped[name], ""))
        elif config_dir and (path := config_dir / f"{name}.yaml").is_file():
            sources.append(Source(path, entry.package or ""))
    return sources


def _search_path(config_dir: Path | None) -> list[str]:
    """The override that has Hydra look for options in a folder."""
    if config_dir is None:
        return []
    quoted = str(config_dir.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    return [f'hydra.searchpath=["file://{quoted}"]']


@contextmanager
def composer(
    config_dir: Path | None = None, catalogue: Catalogue | None = None, earlier: bool = True
) -> Iterator[Composer]:
    """Sets Hydra up for the compositions within a block.

    Args:
        config_dir: a folder with more options and recipes.
        catalogue: the groups and options there are; None: they are looked for.
        earlier: put overrides on top of the run that they go on with.

    Raises:
        ConfigError: there is no such folder.
    """
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError([Problem("--config-dir", "there is no such folder", str(config_dir))])
    share_store()
    with hydra.initialize_config_module(MODULE, job_name="lrflow", version_base="1.3"):
        yield Composer(config_dir, catalogue or Catalogue([config_dir] if config_dir else []), earlier)


def share_store() -> None:
    """Keeps Hydra from copying its store of configs for each composition, which takes as long as the rest of it."""
    type(ConfigStore.instance()).__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]


def checked(overrides: Overrides, composing: Composer) -> tuple[Composed, Config]:
    """What is composed of the overrides of one job, and the checked config of it.

    Raises:
        ConfigError: every problem of its overrides and of what they make.
    """
    ready = [override for override in overrides.ready if not touches(override.key, overrides.lost)]
    problems: list[Problem] = []
    composing.found = None
    try:
        found = composing(ready)
        problems += check_hydra(found.content.hydra)
        config = found.config()
        if not problems and not overrides.problems:
            return found, config
    except ConfigError as error:
        problems += [problem for problem in error.problems if not touches(problem.key, overrides.lost)]
    except Exception as error:
        problems.append(_composition_problem(error, composing.catalogue))
    raise ConfigError([*overrides.problems, *composing.place(problems, ready)])  # what is typed comes from no file


def _composition_problem(error: Exception, catalogue: Catalogue) -> Problem:
    """What Hydra's or YAML's complaint means in the words of a command line."""
    if problem := yaml_problem(error):
        return problem
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and option in LAUNCHERS:
            return missing_package(LAUNCHERS[option], group, option)
        options = list(error.options or catalogue.options(group))
        return Problem(group or "defaults", "there is no such option", option, did_you_mean(option, options))
    if found := re.search(r"Could not override '(hydra[^']*)'", str(error)):
        if hint := nearest_setting(found.group(1)):
            return Problem(found.group(1).replace("hydra.sweeper.", "sweep.", 1), "there is no such key", hint=hint)
        return Problem(found.group(1), "Hydra has no such key", hint="--cfg hydra prints all its keys")
    if found := re.search(r"In '([^']+)': Could not override '([^'@]+)", str(error)):
        return _no_such_group(found.group(1), found.group(2), catalogue)
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines()]
    dull = ("", "To append", "full_key", "object_type", "reference_type", "Either", "Or add", "Error merging")
    told = [line for line in lines if line and not line.startswith(dull[1:])]
    return Problem("config", f"cannot be composed: {'; '.join(told[:2]) or type(error).__name__}")


def _no_such_group(config: str, group: str, catalogue: Catalogue) -> Problem:
    """The problem of a recipe or an option, `recipe/mine`, that overrides a group which it cannot override."""
    folder, _, stem = config.rpartition("/")
    option = catalogue.options(folder).get(stem)
    if folder == "recipe" and option and line_with(r"#\s*@package\s+_global_\b", option.path) is None:
        hint = "start the recipe with the line # @package _global_"
        return Problem(
            folder, "has other groups, and is not at the root of the config", stem, hint, f"{short_path(option.path)}:1"
        )
    name = group.rpartition("/")[2]  # a group without a leading slash is looked for below that of the file
    meant = closest(name, catalogue.groups)
    if group in catalogue.groups:
        message, hint = "this group has no option to override yet", f"write /{group} without override"
    else:
        message = "there is no such group to override"
        hint = f"did you mean override /{meant}?" if meant else f"the groups are {', '.join(catalogue.groups)}"
    line = line_with(rf"\boverride\s+\S*{re.escape(name)}\b", option.path) if option else None
    return Problem(name, message, hint=hint, where=f"{short_path(option.path)}:{line}" if option and line else config)


KEPT = 64
"""How many combinations of options are kept at a time."""


@contextmanager
def options_composed_once() -> Iterator[None]:
    """Within this block Hydra composes a combination of options once; each job gets a copy, and its values on top.

    Hydra 1.3 reads and merges every file again for each job, and with its basic sweeper twice per job. That takes
    longer than a small trial trains. Most jobs of a sweep choose the same options and differ only in values. A file
    that is edited while a sweep runs does not change its later jobs, which were checked before.
    """
    known: dict[Any, DefaultsList] = {}
    composed: dict[int, tuple[Any, DictConfig]] = {}  # by the id of the list of options, which is kept with it
    list_options = config_loader_impl.create_defaults_list
    compose = ConfigLoaderImpl._compose_config_from_defaults_list

    def list_options_once(
        repo: Any,
        config_name: str | None,
        overrides_list: Sequence[HydraOverride],
        prepend_hydra: bool,
        skip_missing: bool,
    ) -> DefaultsList:
        values = [override for override in overrides_list if _sets_value(override, repo)]
        options = tuple(override.input_line for override in overrides_list if override not in values)
        sources = tuple((source.provider, source.path) for source in repo.get_sources())
        key = (sources, config_name, prepend_hydra, skip_missing, options)
        if key not in known and len(known) >= KEPT:
            known.clear()
            composed.clear()
        found = known.get(key)
        if found is None:
            found = known.setdefault(
                key, list_options(repo, config_name, list(overrides_list), prepend_hydra, skip_missing)
            )
        return replace(found, config_overrides=values)

    def compose_once(self: ConfigLoaderImpl, defaults: Any, repo: Any) -> DictConfig:
        if id(defaults) not in composed:
            composed[id(defaults)] = (defaults, compose(self, defaults, repo))
        return copy.deepcopy(composed[id(defaults)][1])

    config_loader_impl.create_defaults_list = list_options_once
    ConfigLoaderImpl._compose_config_from_defaults_list = compose_once  # type: ignore[method-assign]
    try:
        yield
    finally:
        config_loader_impl.create_defaults_list = list_options
        ConfigLoaderImpl._compose_config_from_defaults_list = compose  # type: ignore[method-assign]


def _sets_value(override: HydraOverride, repo: Any) -> bool:
    """Whether an override sets a value and chooses no option, as Hydra tells them apart."""
    if override.is_sweep_override():
        return False
    return isinstance(override.value(), dict) or not repo.group_exists(override.key_or_group)

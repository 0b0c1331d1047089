"""Composition of a config from `conf/`, recipes and a user's folder with Hydra, also for the jobs of a sweep."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override as HydraOverride
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.checks.hydra_section import check_hydra, copied_variable_problem
from lrflow.config.checks.option_lists import check_own_options
from lrflow.config.checks.warnings import doubts_in
from lrflow.config.checks.written_paths import check_links, check_written_paths
from lrflow.config.composition.errors import composition_problem
from lrflow.config.composition.hydra_options import adapt_hydra
from lrflow.config.composition.options import OF_RECIPES, Catalogue, shipped_files
from lrflow.config.composition.overrides import Override, Overrides, as_typed, expand, read_overrides, typed_keys
from lrflow.config.config import Config
from lrflow.config.debugging import FAST_DEV_RUN
from lrflow.config.origins import READ_ERRORS, Source, is_of_digits, is_typed, place, touches
from lrflow.config.saved import Composed, completed, earlier_run, of_this_run, pinned
from lrflow.errors import ConfigError, Problem
from lrflow.files import is_folder

_OF_VALUES = ("invalid literal for int", "Config group override must be")
"""Texts of Hydra's plain ValueErrors: about a name as the key of a list, and a number as the choice of an option."""

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, *READ_ERRORS)
"""What a config may cause that Hydra, OmegaConf and the YAML parser document; anything else is a fault of lrflow."""

MODULE = "lrflow.conf"
ROOT = "config"


def compose(overrides: Sequence[str] = (), config_dir: Path | None = None, earlier: bool = False) -> Config:
    """Compose a config from options and values, and validate it.

    Args:
        overrides: for example `["optimizer=sgd", "optimizer.lr=0.1"]`.
        config_dir: folder with additional options and recipes.
        earlier: apply the overrides to the config.yaml of the run that `resume=` or `task=evaluate` names, as the
            command line does; false: read options only.

    Raises:
        ConfigError: every problem of the overrides and of the composed config.
    """
    catalogue = Catalogue([config_dir] if config_dir else [])
    given = expand(overrides)
    with composer(config_dir, catalogue, earlier) as composing:
        return checked(read_overrides(pinned(given) if earlier else given, catalogue), composing)[1]


class Composer:
    """Composes configs with Hydra, within a block of `composer`.

    Args:
        config_dir: folder with additional options and recipes.
        catalogue: groups and their options.
        earlier: apply overrides to the config of the run that they resume or evaluate.
    """

    found: Composed | None = None
    """The result of the last composition; None if it failed."""

    def __init__(self, config_dir: Path | None, catalogue: Catalogue, earlier: bool) -> None:
        self.config_dir, self.catalogue = config_dir.resolve() if config_dir else None, catalogue
        self._earlier = earlier

    def __call__(self, overrides: Sequence[Override]) -> Composed:
        """Return the config composed of these overrides, with Hydra's own node.

        Raises:
            ConfigError: the run that they resume or evaluate cannot be read, or they cannot be applied to its config.
        """
        self.found = None
        self.found = with_full_run(self._compose(overrides), overrides, self._compose)
        return self.found

    def _compose(self, overrides: Sequence[Override]) -> Composed:
        earlier = earlier_run(overrides) if self._earlier else None
        asked = [override.text for override in overrides if earlier is None or of_this_run(override)]
        try:
            content = hydra.compose(ROOT, [*_search_path(self.config_dir), *asked], return_hydra_config=True)
        except KeyError as error:
            raise ConfigError([copied_variable_problem(error)]) from None
        return completed(content, content.hydra, overrides, earlier, self.catalogue)

    def texts(self, overrides: Sequence[Override]) -> list[str]:
        """Return overrides as Hydra gets them, with the one for the search path."""
        return [*_search_path(self.config_dir), *(override.text for override in overrides)]

    def place(self, problems: Sequence[Problem], overrides: Sequence[Override]) -> list[Problem]:
        """Return the problems with the file and line of their values; `overrides` are those of the last composition."""
        return placed(problems, overrides, self.config_dir, self.found)


def job_of_sweep(content: DictConfig, node: Any, overrides: Sequence[Override], config_dir: Path | None) -> Composed:
    """Return the config of a sweep's job that Hydra composed.

    Args:
        content: config that Hydra composed, without Hydra's node.
        node: Hydra's node of that config.
        overrides: overrides of the job, as Hydra received them.
        config_dir: folder with additional options.

    Raises:
        ConfigError: the run that it resumes or evaluates cannot be read, or the overrides cannot be applied to its
            config.
    """
    earlier, catalogue = earlier_run(overrides), Catalogue([config_dir] if config_dir else [])

    def compose_other(others: Sequence[Override]) -> Composed:
        loader = GlobalHydra.instance().config_loader()
        found = loader.load_configuration(ROOT, [override.text for override in others], RunMode.RUN)
        return completed(found, found.hydra, others, earlier, catalogue)

    return with_full_run(completed(content, node, overrides, earlier, catalogue), overrides, compose_other)


def with_full_run(
    found: Composed, overrides: Sequence[Override], compose_other: Callable[[Sequence[Override]], Composed]
) -> Composed:
    """Return a composed config; that of a smoke run with a function that returns the config of the full run.

    Args:
        found: composed config.
        overrides: overrides that it was composed of.
        compose_other: composes a config of other overrides.
    """
    rest = [override for override in overrides if override.key not in ("fast", FAST_DEV_RUN)]
    if len(rest) == len(overrides):
        return found

    def full_run() -> Config | None:
        try:
            return compose_other(rest).config()
        except (ConfigError, *COMPOSITION_ERRORS):  # the full run is invalid
            return None

    return replace(found, full_run=full_run)


def placed(
    problems: Sequence[Problem], overrides: Sequence[Override], config_dir: Path | None, found: Composed | None
) -> list[Problem]:
    """Return problems with the file and line of their values, in a recipe, in `config_dir` or in an earlier run.

    Args:
        problems: problems of a config.
        overrides: overrides that it was composed of, as Hydra received them.
        config_dir: folder with additional options.
        found: composed config; None: the composition failed.
    """
    if found is None:
        return list(problems)
    typed = [override.key for override in overrides if override.sign == "++"]
    asked = [override.text for override in overrides if found.earlier is None or of_this_run(override)]
    has_files = config_dir is not None or any(override.key in ("recipe", "fast") for override in overrides)
    composed = _sources([*_search_path(config_dir), *asked], config_dir) if has_files else []
    saved = composed if found.earlier is None else []
    if found.earlier is not None and found.earlier.name == "config.yaml":
        saved = [Source(found.earlier, "")]
    return [place(problem, composed if touches(problem.key, found.replaced) else saved, typed) for problem in problems]


def _sources(texts: Sequence[str], config_dir: Path | None) -> list[Source]:
    """Return the recipes and the files of `config_dir` that a composition uses, in its order."""
    loader = GlobalHydra.instance().config_loader()
    defaults = loader.compute_defaults_list(ROOT, list(texts), RunMode.RUN).defaults
    shipped = {
        name: path for name, path in shipped_files().items() if name.startswith(("recipe/", "fast/on/", OF_RECIPES))
    }
    sources = []
    for entry in defaults:
        name = str(entry.config_path)
        if name in shipped:
            sources.append(Source(shipped[name], ""))
        elif config_dir and (path := config_dir / f"{name}.yaml").is_file():
            sources.append(Source(path, entry.package or ""))
    return sources


def _search_path(config_dir: Path | None) -> list[str]:
    """Return the override that adds a folder of options to Hydra's search path; empty without a folder."""
    if config_dir is None:
        return []
    quoted = str(config_dir.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    return [f'hydra.searchpath=["file://{quoted}"]']


@contextmanager
def composer(
    config_dir: Path | None = None, catalogue: Catalogue | None = None, earlier: bool = True
) -> Iterator[Composer]:
    """Initialize Hydra for the compositions within a block.

    Args:
        config_dir: folder with additional options and recipes.
        catalogue: groups and their options; None: read them from their folders.
        earlier: apply overrides to the config of the run that they resume or evaluate.

    Raises:
        ConfigError: the folder does not exist.
    """
    if config_dir is not None and not is_folder(config_dir):
        raise ConfigError([Problem("--config-dir", "there is no such folder", str(config_dir))])
    adapt_hydra()
    with hydra.initialize_config_module(MODULE, job_name="lrflow", version_base="1.3"):
        yield Composer(config_dir, catalogue or Catalogue([config_dir] if config_dir else []), earlier)


def checked(
    overrides: Overrides, composing: Composer, typed: Iterable[Override] | None = None
) -> tuple[Composed, Config]:
    """Return the composed and the checked config of one job.

    Args:
        overrides: of the job.
        composing: composes it.
        typed: overrides of the command line, if some of the job's come from the file of a sweep; None: all are typed.

    Raises:
        ConfigError: every problem of its overrides and of the composed config.
    """
    ready = [override for override in overrides.ready if not touches(override.key, overrides.lost)]
    problems: list[Problem] = []
    composing.found = None
    try:
        found = composing(ready)
        given = list(ready if typed is None else typed)
        keys = typed_keys(given)
        problems += check_hydra(found.content, keys, composing.texts(ready))
        if any(key.partition(".")[0] == "trial" for key in keys):  # `check_written_paths` refuses that of a file
            problems += _check_trial(found.content.get("trial"))
        config = found.config()
        problems += check_written_paths(config, keys, _named(found, given))
        if (folder := _continued(found.earlier)) and config.resume.source is not None:
            problems += check_links(folder)
        if not problems and not overrides.problems:
            config.doubts.extend(_doubts(ready, composing.config_dir))
            config.doubts.extend(_of_account(config, keys, lambda problem: composing.place([problem], ready)[0]))
            return found, config
    except ConfigError as error:
        reported = [*overrides.lost, *(problem.key for problem in problems)]
        problems += [problem for problem in error.problems if not touches(problem.key, reported)]
    except COMPOSITION_ERRORS as error:
        problems.append(composition_problem(error, composing.catalogue, ready, composing))
        composing.found = None  # of other overrides
    except Exception as error:
        unread = _unread(error, composing.catalogue)
        if not unread and isinstance(error, ValueError) and any(text in str(error) for text in _OF_VALUES):
            unread = [composition_problem(error, composing.catalogue, ready, composing)]
            composing.found = None
        if not unread:
            raise
        problems += unread
    problems = as_typed(composing.place(problems, ready), ready)
    raise ConfigError([*overrides.problems, *problems])  # overrides come from no file


def _unread(error: Exception, catalogue: Catalogue) -> list[Problem]:
    """Return the problems for an error that Hydra and the YAML parser do not document; empty: a fault of lrflow."""
    if is_of_digits(error):
        return [Problem("config", "has a whole number of more than 4300 digits, which Python does not read")]
    return check_own_options(catalogue) if catalogue.has_own else []  # Hydra asserts the form of files


def check_sweep_itself(overrides: Overrides, composing: Composer) -> list[Problem]:
    """Return the problems of Hydra's section as a sweep starts with it; the sections of its jobs may differ from it.

    Args:
        overrides: of the command line, some with several values per key.
        composing: has a search path for the options.
    """
    texts = composing.texts(overrides.ready)
    try:
        found = GlobalHydra.instance().config_loader().load_configuration(ROOT, texts, RunMode.MULTIRUN)
    except (*COMPOSITION_ERRORS, KeyError):  # its jobs cannot be composed either, and report it
        return []
    folder = next((Path(one.plain) for one in overrides.ready if one.key == "hydra.sweep.dir" and not one.saved), None)
    is_resumed = folder is not None and any((folder / name).exists() for name in ("sweep.yaml", "multirun.yaml"))
    links = check_links(folder) if folder is not None and is_resumed else []
    return [*check_hydra(found, typed_keys(overrides.ready), texts), *links]


def _named(found: Composed, typed: Iterable[Override]) -> list[Path]:
    """Return the folders of earlier runs and sweeps that the command line names."""
    folders = [Path(override.plain) for override in typed if override.key == "hydra.sweep.dir" and not override.saved]
    return folders if found.earlier is None else [*folders, found.earlier.parent]


def _doubts(overrides: Sequence[Override], config_dir: Path | None) -> Iterator[str]:
    """Yield the warnings about the files of `config_dir` that a composition uses."""
    if config_dir is None:
        return
    for source in _sources([*_search_path(config_dir), *(override.text for override in overrides)], config_dir):
        if source.path.is_relative_to(config_dir):
            yield from doubts_in(source.path, source.path.stat().st_mtime)


def _of_account(config: Config, typed: Collection[str], place: Callable[[Problem], Problem]) -> Iterator[str]:
    """Yield a warning for an account or a server that a file gives, since it receives the run's metrics.

    Args:
        config: checked config.
        typed: keys that the command line sets.
        place: function that adds file and line to a problem.
    """
    for key, receiver in config.logger.receivers().items():
        if not is_typed(key, typed):
            where = place(Problem(key, "", receiver)).where or "a file"
            kind = "server" if key.endswith("uri") else "account"
            yield f"{where} sends the metrics to the {kind} {key}={receiver}: type it if it is yours"


def _continued(file: Path | None) -> Path | None:
    """Return the run folder of a config.yaml or a checkpoint; None: the file lies in none."""
    if file is None:
        return None
    if file.name == "config.yaml":
        return file.parent
    return file.parent.parent if file.parent.name == "checkpoints" else None


def _check_trial(trial: Any) -> list[Problem]:
    """Return a problem if a config names the trial of a sweep, which only a sweep does, for its own jobs."""
    if trial is None:
        return []
    hint = "start a sweep: -m with several values of a key, and sweep.metric for what it optimizes"
    value = OmegaConf.to_container(trial) if OmegaConf.is_config(trial) else trial
    return [Problem("trial", "is set by a sweep, for its own runs", value, hint)]


@contextmanager
def options_composed_once() -> Iterator[None]:
    """Let Hydra compose each combination of options once within this block, and apply each job's values to a copy.

    Hydra 1.3 reads and merges every file again for each job, and with its basic sweeper twice per job. That takes
    longer than a small trial trains. Most jobs of a sweep choose the same options and differ only in values. A file
    that is edited while a sweep runs does not change its later jobs, which were checked before.
    """
    max_kept = 64  # combinations in memory at a time
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
        if key not in known and len(known) >= max_kept:
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
    """Return whether Hydra treats an override as a value rather than as the choice of an option."""
    if override.is_sweep_override():
        return False
    return isinstance(override.value(), dict) or not repo.group_exists(override.key_or_group)

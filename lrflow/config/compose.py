"""Composes the groups of `conf/`, recipes and a user's own folder, and checks the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lrflow.config.catalogue import Catalogue, recipes
from lrflow.config.config import Config
from lrflow.config.hydra_node import check_hydra
from lrflow.config.origins import Source, annotate, shown
from lrflow.config.overrides import Overrides, as_typed, expand, read
from lrflow.config.validate import touches, validate
from lrflow.errors import ConfigError, Problem, did_you_mean

MODULE = "lrflow.conf"
ROOT = "config"


def compose(overrides: Sequence[str] = (), config_dir: Path | None = None) -> Config:
    """Composes a config as the command line does, and checks it.

    Args:
        overrides: `["optimizer=sgd", "optimizer.lr=0.1"]`.
        config_dir: a folder with more options and recipes.

    Raises:
        ConfigError: every problem of the overrides and of what they make.
    """
    catalogue = Catalogue([config_dir] if config_dir else [])
    with composer(config_dir) as composing:
        return checked(read(expand(overrides), catalogue), composing, catalogue)


class Composer:
    """Hydra's composition, with `config_dir` on its search path; made by `composer`."""

    def __init__(self, config_dir: Path | None) -> None:
        self.config_dir = config_dir.resolve() if config_dir else None
        quoted = str(self.config_dir).replace("\\", "\\\\").replace('"', '\\"')
        self._search = [f'hydra.searchpath=["file://{quoted}"]'] if config_dir else []

    def __call__(self, texts: Sequence[str]) -> DictConfig:
        """The composed config, Hydra's own node included."""
        return hydra.compose(ROOT, [*self._search, *texts], return_hydra_config=True)

    def sources(self, texts: Sequence[str]) -> list[Source]:
        """The files of the user's and of recipes that take part, in the order in which they are composed."""
        loader = GlobalHydra.instance().config_loader()
        try:
            defaults = loader.compute_defaults_list(ROOT, [*self._search, *texts], RunMode.RUN).defaults
        except Exception:
            return []
        known = {f"recipe/{path.parent.name}": path for path in recipes()}
        sources = []
        for entry in defaults:
            if path := known.get(str(entry.config_path)):
                sources.append(Source(path, ""))
            elif self.config_dir and (path := self.config_dir / f"{entry.config_path}.yaml").is_file():
                sources.append(Source(path, entry.package or ""))
        return sources


@contextmanager
def composer(config_dir: Path | None = None) -> Iterator[Composer]:
    """Sets Hydra up for compositions within the block."""
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError([Problem("--config-dir", "there is no such folder", str(config_dir))])
    register_recipes()
    with hydra.initialize_config_module(MODULE, job_name="lrflow", version_base="1.3"):
        yield Composer(config_dir)


def register_recipes() -> None:
    """Makes the recipes that come with lrflow options of the group `recipe`; a broken one only when it is chosen."""
    for path in recipes():
        try:
            node = OmegaConf.load(path)
        except (yaml.YAMLError, OSError, UnicodeDecodeError):
            continue
        ConfigStore.instance().store(group="recipe", name=path.parent.name, node=node, package="_global_", provider="lrflow")


def checked(overrides: Overrides, composing: Composer, catalogue: Catalogue) -> Config:
    """The config of one job.

    Raises:
        ConfigError: every problem of its overrides and of what they make.
    """
    lost = overrides.lost
    texts = [o for o, key in zip(overrides.texts, overrides.keys, strict=True) if not touches(key, lost)]
    problems = list(overrides.problems)
    sources: list[Source] = []
    try:
        found = composing(texts)
        config = _validated(found, texts)
    except ConfigError as error:
        sources = composing.sources(texts)
        problems += [problem for problem in error.problems if not touches(problem.key, lost)]
    except Exception as error:
        problems.append(composition_problem(error, catalogue))
    if problems:
        raise ConfigError(annotate(problems, sources, overrides.keys))
    return config


def _validated(found: DictConfig, texts: Sequence[str]) -> Config:
    problems = check_hydra(found.hydra)
    try:
        config = validate(found, choices_of(found), as_typed(texts))
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from None
    if problems:
        raise ConfigError(problems)
    return config


def choices_of(found: DictConfig) -> dict[str, str | None]:
    """The option taken of each group of lrflow's, from a composed config."""
    choices: Any = OmegaConf.to_container(found.hydra.runtime.choices)
    return {group: choice for group, choice in choices.items() if not group.startswith("hydra/")}


def composition_problem(error: Exception, catalogue: Catalogue) -> Problem:
    """What Hydra's or YAML's complaint means in the words of a command line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark:
            mark = cause.problem_mark
            where = f"{shown(Path(mark.name))}:{mark.line + 1}"
            return Problem("YAML", f"cannot be read: {cause.problem or cause.context}", where=where)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or catalogue.options(group))
        return Problem(group or "defaults", "no such option", option, did_you_mean(option, options))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("To append", "full_key", "object_type", "Either", "Or add"))]
    message = "; ".join(kept[:2]) or type(error).__name__
    return Problem("config", f"cannot be composed: {message}")

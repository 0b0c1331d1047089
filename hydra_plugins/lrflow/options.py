"""lrflow's options for Hydra: the files of `conf/` and the recipes, each read when a composition uses it.

Hydra imports this module at every start, in every program of the environment, so its imports are light and it changes
only lrflow's own search path.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from hydra.core.config_search_path import ConfigSearchPath, SearchPathElement
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

OURS = SearchPathElement("main", "lrflow://conf")
"""The search path entry of lrflow's options."""


class LrflowSearchPath(SearchPathPlugin):
    """Make Hydra read `lrflow.conf` through `LrflowOptions`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Replace the entry of `lrflow.conf`, if there is one."""
        path = search_path.get_path()
        path[:] = [OURS if (entry.provider, entry.path) == ("main", "pkg://lrflow.conf") else entry for entry in path]


class LrflowOptions(ConfigSource):
    """The options of `conf/`; the recipes as options of `recipe`, their smoke versions as options of `fast/on`."""

    @staticmethod
    def scheme() -> str:
        """`lrflow://`."""
        return "lrflow"

    def available(self) -> bool:
        """Return True."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Return whether there is a group of this name."""
        return config_path.strip("/") in _groups()

    def is_config(self, config_path: str) -> bool:
        """Return whether there is an option of this name."""
        return _name(config_path) in _files()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The names of the options and groups of a group."""
        below = config_path.strip("/")
        options = [PurePosixPath(name).name for name in _files() if _group(name) == below]
        groups = [PurePosixPath(name).name for name in _groups() if name and _group(name) == below]
        names = {None: [*options, *groups], ObjectType.CONFIG: options, ObjectType.GROUP: groups}
        return sorted(set(names.get(results_filter, [])))

    def load_config(self, config_path: str) -> ConfigResult:
        """Return an option.

        Raises:
            ConfigLoadError: there is none of this name.
        """
        name = _name(config_path)
        if (path := _files().get(name)) is None:
            raise ConfigLoadError(f"Config not found : {name}")
        start, content = _read(path, path.stat().st_mtime_ns)
        of_group = not name.startswith(("recipe/", "fast/on/", "of_recipe/"))
        header: dict[str, str | None] = self._get_header_dict(start) if of_group else {"package": "_global_"}
        return ConfigResult(self.provider, self.full_path(), copy.deepcopy(content), header)


def _files() -> Mapping[str, Path]:
    from lrflow.config.composition.options import shipped_files

    return shipped_files()


@cache
def _groups() -> frozenset[str]:
    return frozenset(
        "" if str(above) == "." else str(above) for name in _files() for above in PurePosixPath(name).parents
    )


def _name(config_path: str) -> str:
    return config_path.strip("/").removesuffix(".yaml")


def _group(name: str) -> str:
    return name.rpartition("/")[0]


@cache
def _read(path: Path, modified: int) -> tuple[str, Any]:
    """The start of a file, and its content as OmegaConf reads it, by YAML's C parser, which takes a tenth of the time.

    It is read once as long as it is not `modified`: a sweep composes most options again for each job.
    """
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.load(text, Loader=_loader())
    except yaml.YAMLError:
        return text[:512], OmegaConf.load(path)  # its error names the file
    return text[:512], OmegaConf.create({} if content is None else content)


@cache
def _loader() -> Any:
    pure = get_yaml_loader()

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers = pure.yaml_implicit_resolvers
        yaml_constructors = pure.yaml_constructors

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:str"]
            if len(set(keys)) < len(keys):
                key = next(key for key in keys if keys.count(key) > 1)
                raise yaml.YAMLError(f"found duplicate key {key}")
            return super().construct_mapping(node, deep=deep)

    return Loader

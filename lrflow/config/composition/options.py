"""Groups, their options and the recipes, read from their folders."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

import lrflow
from lrflow.config.origins import MODELINE, read_yaml
from lrflow.errors import ConfigError, Problem
from lrflow.files import is_folder

GROUPS = (
    "task", "optimizer", "schedule", "feedback", "clip", "average", "layers", "scaling", "model", "data", "augment",
    "trainer", "logger", "signals", "health", "callbacks", "find", "recipe", "fast", "sweep",
)  # fmt: skip
"""Groups in the order in which help lists them."""

COMBINED = ("augment", "callbacks", "logger")
"""Groups of which several options can be chosen at once, as a list."""

ACROSS_GROUPS = ("recipe", "fast", "sweep")
"""Groups whose options set keys of many other groups."""

_OF_THE_RUN = ("lrflow", "hydra", "output", "name", "report", "resume", "trial", "against")
"""Where a run is written, what it is called, and how it is started."""


def changes_training(key: str) -> bool:
    """Return whether runs that differ in a key of the config, or in the option of a group, train differently."""
    return key.replace("/", ".").partition(".")[0] not in _OF_THE_RUN


def definition_of(group: str) -> str:
    """Return the definition of a group's option files in the JSON schema; empty: the whole schema."""
    return "" if group in ACROSS_GROUPS else f"{group}-option"


class Option(NamedTuple):
    """One option of a group.

    Args:
        group: name of the group, such as `optimizer`.
        name: name of the option, such as `adamw`.
        path: file of the option.
    """

    group: str
    name: str
    path: Path

    @property
    def summary(self) -> str:
        """The first line of the file if it is a comment, which describes the option; otherwise empty.

        Lines for Hydra and for editors before it are left out.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return ""
        first = next((line for line in lines if "@package" not in line and not line.startswith(MODELINE)), "")
        return first.lstrip("# ") if first.startswith("#") else ""

    def selected_options(self) -> dict[str, str]:
        """Return the options that its defaults list selects, by group; empty if the file cannot be read."""
        entries = [entry for entry in self._content().get("defaults") or () if isinstance(entry, dict)]
        pairs = [(str(key).removeprefix("override "), value) for entry in entries for key, value in entry.items()]
        return {key.partition("@")[0].strip().lstrip("/"): str(value) for key, value in pairs}

    def sets_only_hydra(self) -> bool:
        """Return whether it sets no key of a run, as an option of `sweep` that only configures Hydra's sweeper."""
        return self._content().keys() <= {"defaults", "hydra"}

    def _content(self) -> dict[str, Any]:
        try:
            found = read_yaml(self.path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return found if isinstance(found, dict) else {}


class Catalogue:
    """All groups and their options.

    Args:
        folders: folders with additional options, as `--config-dir` gives them.

    Raises:
        ConfigError: there is no such folder, or an option in it has the name of one of lrflow's own.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._options: dict[str, dict[str, Option]] = {group: {} for group in GROUPS}
        for full_name, path in shipped_files().items():
            group, _, name = full_name.partition("/")
            if name and not full_name.startswith(("fast/on/", OF_RECIPES)):
                self._add(Option(group, name, path))
        folders = list(folders)
        if missing := [folder for folder in folders if not is_folder(folder)]:
            raise ConfigError([Problem("--config-dir", "there is no such folder", str(o)) for o in missing])
        self.has_own = bool(folders)
        shipped = shipped_files()
        hidden = [option for folder in folders for option in self._add_folder(folder, shipped)]
        if hidden:
            message = "has the name of one of lrflow's own options, which would be used instead"
            raise ConfigError([Problem(str(o.path), message, hint="give it another name") for o in hidden])

    def _add_folder(self, folder: Path, shipped: Collection[str] = ()) -> list[Option]:
        """Add the options of a folder; return those whose name is taken, by one of `shipped` or by an earlier one."""
        options = [
            Option(path.parent.relative_to(folder).as_posix(), path.stem, path)
            for path in sorted(folder.rglob("*.yaml"))
        ]
        return [
            option
            for option in options
            if option.group != "." and (f"{option.group}/{option.name}" in shipped or not self._add(option))
        ]

    def _add(self, option: Option) -> bool:
        """Add an option, and return whether its name was free."""
        return self._options.setdefault(option.group, {}).setdefault(option.name, option) is option

    @property
    def groups(self) -> list[str]:
        """Names of the groups."""
        return list(self._options)

    def options(self, group: str) -> dict[str, Option]:
        """Return the options of a group by name; empty for an unknown group."""
        return self._options.get(group, {})

    def every(self) -> list[Option]:
        """Return the options of all groups."""
        return [option for options in self._options.values() for option in options.values()]

    def find(self, word: str) -> Option | None:
        """Return the first option of this name in any group, or None."""
        return next((options[word] for options in self._options.values() if word in options), None)


def home(name: str) -> Path:
    """Return the folder `conf`, `docs` or `recipes`, of an installed package or beside the package of sources."""
    for root in lrflow.__path__:
        if (folder := Path(root) / name).is_dir():
            return folder
    return Path(lrflow.__path__[0]) / name


FAST = "fast.yaml"
"""File in a recipe's folder with the overrides for `fast=true`."""

OF_RECIPES = "of_recipe/"
"""Begins the names of settings that a recipe has for one option of a group: `of_recipe/data/finetune_text/custom`."""


def recipes() -> dict[str, Path]:
    """Return the files of lrflow's recipes by name.

    `recipes/NAME/recipe.yaml` is `NAME`, and `recipes/NAME/VARIANT.yaml` is `NAME/VARIANT`.
    """
    folders = [path.parent for path in sorted(home("recipes").glob("*/recipe.yaml"))]
    found = {folder.name: folder / "recipe.yaml" for folder in folders}
    variants = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.name != FAST]
    return found | {f"{path.parent.name}/{path.stem}": path for path in variants if path.stem != "recipe"}


@cache
def shipped_files() -> Mapping[str, Path]:
    """Return the file of every option that comes with lrflow, by group and name: `optimizer/adamw`, `recipe/digits`.

    The smoke versions of the recipes are options of `fast/on`: `fast/on/digits`. `recipes/NAME/of/GROUP/OPTION.yaml` is
    `of_recipe/GROUP/NAME/OPTION`, what the recipe sets as long as this option of the group is chosen.
    """
    conf = home("conf")
    groups = sorted(path for path in conf.iterdir() if path.is_dir())
    files = {f"{group.name}/{path.stem}": path for group in groups for path in sorted(group.glob("*.yaml"))}
    files["config"] = conf / "config.yaml"
    for name, path in recipes().items():
        files[f"recipe/{name}"] = path
        if (fast := path.parent / FAST).is_file():
            files[f"fast/on/{name}"] = fast
        for own in sorted(path.parent.glob("of/*/*.yaml")):
            group = f"{own.parent.name}/on" if own.parent.name.endswith("_fast") else own.parent.name
            files[f"{OF_RECIPES}{group}/{name}/{own.stem}"] = own
    return MappingProxyType(files)


def shipped_nodes(group: str, target: str, option: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the nodes with a `_target_` in lrflow's own options of a group.

    A test compares them with the target's signature, so the check of a config need not import the target. Files are
    parsed lazily.

    Args:
        group: name of the group, such as `optimizer`.
        target: dotted name.
        option: option whose file is read first.
    """
    for path in sorted((home("conf") / group).glob("*.yaml"), key=lambda path: (path.stem != option, path)):
        yield from (node for node in _nodes_of(path) if node["_target_"] == target)


def options_with(group: str, name: str) -> list[str]:
    """Return lrflow's own options of a group, each as it is chosen, whose object takes an argument of this name."""
    found = []
    for path in sorted((home("conf") / group).glob("*.yaml")):
        node = read_yaml(path)
        if isinstance(node, dict) and "_target_" in node and name in node:
            found.append(f"{group}={path.stem}")
    return found


@cache
def _nodes_of(path: Path) -> list[dict[str, Any]]:
    """Return each node with a `_target_` in a file."""
    found: list[dict[str, Any]] = []
    _collect(read_yaml(path), found)
    return found


def _collect(node: Any, found: list[dict[str, Any]]) -> None:
    if isinstance(node, dict):
        if "_target_" in node:
            found.append({key: value for key, value in node.items() if key != "defaults"})  # which Hydra reads itself
        for value in node.values():
            _collect(value, found)

"""Groups, their options and the recipes, read from their folders."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import lrflow
from lrflow.config.origins import read_yaml
from lrflow.errors import ConfigError, Problem

GROUPS = (
    "task", "optimizer", "schedule", "feedback", "layers", "scaling", "model", "data", "trainer", "logger",
    "health", "find", "recipe", "fast", "sweep",
)  # fmt: skip
"""In the order in which a person meets them."""

ACROSS_GROUPS = ("recipe", "fast", "sweep")
"""Those whose options set keys of many other groups."""


@dataclass(frozen=True)
class Option:
    """One option of a group.

    Args:
        group: `optimizer`.
        name: `adamw`.
        path: its file.
    """

    group: str
    name: str
    path: Path

    @property
    def summary(self) -> str:
        """The first comment of its file, which says what it is; empty where it starts with something else."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return ""
        first = next((line for line in lines if "@package" not in line), "")
        return first.lstrip("# ") if first.startswith("#") else ""

    def brings(self) -> dict[str, str]:
        """The options of other groups that its defaults list takes, by group; empty where it cannot be read."""
        entries = [entry for entry in self._content().get("defaults") or () if isinstance(entry, dict)]
        pairs = [(str(key).removeprefix("override "), value) for entry in entries for key, value in entry.items()]
        return {key.partition("@")[0].strip().lstrip("/"): str(value) for key, value in pairs}

    def is_of_hydra_alone(self) -> bool:
        """Whether it says nothing of a run, as a search of its own does that only sets up Hydra's sweeper."""
        return self._content().keys() <= {"defaults", "hydra"}

    def _content(self) -> dict[str, Any]:
        try:
            found = read_yaml(self.path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return found if isinstance(found, dict) else {}


class Catalogue:
    """Every option of every group.

    Args:
        folders: of further options, as `--config-dir` gives them.

    Raises:
        ConfigError: an option of these folders has the name of one of lrflow's own.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._options: dict[str, dict[str, Option]] = {group: {} for group in GROUPS}
        self._add_folder(home("conf"))
        for name, path in recipes().items():
            self._add(Option("recipe", name, path))
        folders = list(folders)
        self.has_own = bool(folders)
        shipped = shipped_files() if folders else {}
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
        """Adds an option, unless there is one of its name."""
        return self._options.setdefault(option.group, {}).setdefault(option.name, option) is option

    @property
    def groups(self) -> list[str]:
        """The groups' names."""
        return list(self._options)

    def options(self, group: str) -> dict[str, Option]:
        """The options of a group by name; empty where there is no such group."""
        return self._options.get(group, {})

    def find(self, word: str) -> Option | None:
        """The option of this name, whatever its group."""
        return next((options[word] for options in self._options.values() if word in options), None)


def home(name: str) -> Path:
    """The folder `conf` or `recipes`: inside the package where it was installed, beside it in a source tree."""
    for root in lrflow.__path__:
        if (folder := Path(root) / name).is_dir():
            return folder
    return Path(lrflow.__path__[0]) / name


FAST = "fast.yaml"
"""Beside a recipe: the overrides of its smoke version."""


def recipes() -> dict[str, Path]:
    """The recipes that come with lrflow: `recipes/NAME/recipe.yaml` is NAME, a variant beside it is NAME/VARIANT."""
    folders = [path.parent for path in sorted(home("recipes").glob("*/recipe.yaml"))]
    found = {folder.name: folder / "recipe.yaml" for folder in folders}
    variants = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.name != FAST]
    return found | {f"{path.parent.name}/{path.stem}": path for path in variants if path.stem != "recipe"}


def shipped_files() -> dict[str, Path]:
    """Return the file of every option that comes with lrflow, by group and name: `optimizer/adamw`, `recipe/digits`.

    The smoke versions of the recipes are options of `fast/on`: `fast/on/digits`.
    """
    conf = home("conf")
    files = {path.relative_to(conf).with_suffix("").as_posix(): path for path in conf.rglob("*.yaml")}
    for name, path in recipes().items():
        files[f"recipe/{name}"] = path
        if (fast := path.parent / FAST).is_file():
            files[f"fast/on/{name}"] = fast
    return files


def shipped_keys(group: str, target: str, option: str | None = None) -> Iterator[frozenset[str]]:
    """Yield the keys that lrflow's own options of a group give to a `_target_`, one set per node; none if none has it.

    They fit the target's signature (a test sees to it), so that nothing needs to be imported to know it. A file is
    parsed when its keys are asked for.

    Args:
        group: `optimizer`.
        target: the dotted name.
        option: the option whose file is read first.
    """
    for path in sorted((home("conf") / group).glob("*.yaml"), key=lambda path: (path.stem != option, path)):
        yield from (keys for named, keys in _nodes_of(path) if named == target)


@cache
def _nodes_of(path: Path) -> list[tuple[str, frozenset[str]]]:
    """The `_target_` and the keys of each node in a file."""
    found: list[tuple[str, frozenset[str]]] = []
    _collect(read_yaml(path), found)
    return found


def _collect(node: Any, found: list[tuple[str, frozenset[str]]]) -> None:
    if isinstance(node, dict):
        if "_target_" in node:
            found.append((node["_target_"], frozenset(node) - {"defaults"}))  # which Hydra reads itself
        for value in node.values():
            _collect(value, found)

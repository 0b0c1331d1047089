"""Checks of what Hydra builds: launcher, sweeper and callbacks, and the settings that a file may give a launcher."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.checks.written_paths import path_problem, stays_below
from lrflow.config.composition.interpolation import leaves
from lrflow.config.packages import trusted
from lrflow.errors import Problem, did_you_mean
from lrflow.limits import MOST_PROCESSES, is_whole

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
VECTORIZED = "hydra_plugins.lrflow_vectorized.launcher.VectorizedLauncher"

_PLUGIN = re.compile(r"(hydra\._internal\.core_plugins|hydra_plugins)(\.\w+)+\.[A-Z]\w*")
_FOLDERS = ("submitit_folder", "temp_folder")
_WORDS = (
    "name", "partition", "qos", "comment", "constraint", "exclude", "gres", "account", "mem_per_gpu", "mem_per_cpu",
    "backend", "prefer", "require", "pre_dispatch", "batch_size", "max_nbytes", "mmap_mode",
)  # fmt: skip
"""Settings of launchers that are words: a file may not give any other text, such as a command or a server."""

_WORD = re.compile(r"[\w.,:+*@%=-]*")


def check_built(content: Any, is_typed: Callable[[str], bool]) -> Iterator[Problem]:
    """Yield a problem for each target that is neither a plugin of Hydra nor in a trusted package.

    Args:
        content: `hydra` of a config, resolved.
        is_typed: whether the command line gives a key, and not a file.
    """
    for name, value in (content["callbacks"] or {}).items():
        key = f"hydra.callbacks.{name}"
        below = [place for place, _ in leaves(value, key)]
        if not all(map(is_typed, below)) or not below:
            yield Problem(key, "a file may not set callbacks", value, "give it on the command line")
    for key, value in leaves(content):
        if key.rpartition(".")[2] != "_target_":
            continue
        group = key.partition(".")[0] if key in ("launcher._target_", "sweeper._target_") else ""
        plugin = group and _PLUGIN.fullmatch(str(value)) and value in _plugins(group)
        if not plugin and not any(str(value).startswith(f"{package}.") for package in trusted()):
            yield Problem(f"hydra.{key}", "a config may not have Hydra build this", value)


def check_settings(
    group: str, content: Any, written: Any, is_typed: Callable[[str], bool], resolve: Callable[[str], Any]
) -> Iterator[Problem]:
    """Yield a problem for each setting of a launcher or sweeper that is unknown, of another type, or not for a file.

    Args:
        group: `launcher` or `sweeper`.
        content: its settings, resolved.
        written: the same with interpolations.
        is_typed: whether the command line gives a key, and not a file.
        resolve: replaces the interpolations of a text.
    """
    schema = _plugins(group).get(content.get("_target_")) if content.get("_target_") != BASIC else None
    if schema is None:  # BASIC has no settings; any other is of a trusted package, or reported already
        for name, value in content.items():
            if content["_target_"] == BASIC and name != "_target_":
                yield Problem(f"hydra.{group}.{name}", "there is no such key", value)
        return
    default: Any = OmegaConf.to_container(schema, resolve=False)
    for name, value in content.items():
        key = f"hydra.{group}.{name}"
        if name not in default:
            yield Problem(key, "there is no such key", value, did_you_mean(str(name), default))
        elif default[name] == written[name]:
            continue
        elif problem := _of_type(schema, name, value, key):
            yield problem
        elif name == "n_jobs" and (value == 0 or (is_whole(value) and value > MOST_PROCESSES)):
            message = f"expected the number of jobs at a time, at most {MOST_PROCESSES}, or -1 for one per core"
            yield Problem(key, message, value)
        else:
            yield from _from_file(key, str(name), value, written[name], is_typed, resolve)


def _from_file(
    key: str, name: str, value: Any, written: Any, is_typed: Callable[[str], bool], resolve: Callable[[str], Any]
) -> Iterator[Problem]:
    """Yield a problem for each value below a setting that only the command line may give."""
    texts = dict(leaves(written, key))
    for place, item in leaves(value, key):
        if is_typed(place) or item is None or isinstance(item, bool | int | float):
            continue
        if name in _FOLDERS:
            if not stays_below(str(texts[place]), resolve):
                yield path_problem(place, item)
        elif name == "_target_" or (name in _WORDS and _WORD.fullmatch(str(item))):
            continue
        else:
            message = "a file may give only a word here" if name in _WORDS else "a file may not set this"
            yield Problem(place, message, item, "give it on the command line")


def _of_type(schema: DictConfig, name: Any, value: Any, key: str) -> Problem | None:
    try:
        OmegaConf.merge(schema, {name: value})
    except OmegaConfBaseException as error:
        return Problem(key, str(error).partition("\n")[0], value)
    return None


def _plugins(group: str) -> dict[str, DictConfig]:
    """Return the settings of each installed launcher or sweeper with their types, by its class."""
    repo: Any = ConfigStore.instance().repo  # `load` would copy each of them
    nodes = [stored.node for stored in repo["hydra"][group].values() if hasattr(stored, "node")]
    return {str(node.get("_target_")): node for node in nodes if isinstance(node, DictConfig)}

"""Hydra's own part of the config, which builds objects too: held to the same rules."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrflow.config.targets import check_name
from lrflow.errors import Problem

_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
_LOGGING = ("logging.", "colorlog.", "ext://sys.stdout", "ext://sys.stderr", "hydra.")
_ENVIRONMENT = re.compile(r"LRFLOW_.*|PYTHON.*|LD_.*|DYLD_.*|HYDRA_.*|PATH", re.IGNORECASE)


def check_hydra(node: DictConfig) -> list[Problem]:
    """What Hydra may not be told by a config: to build other things than its plugins, to change who is trusted."""
    problems: list[Problem] = []
    content: Any = OmegaConf.to_container(node, resolve=False)
    _walk(content, "hydra", problems)
    if content.get("mode") is not None:
        problems.append(Problem("hydra.mode", "a sweep is asked for with -m", content["mode"]))
    for name in content.get("job", {}).get("env_set", {}):
        if _ENVIRONMENT.fullmatch(str(name)):
            problems.append(Problem(f"hydra.job.env_set.{name}", "a config may not set this variable"))
    return problems


def _walk(node: Any, key: str, problems: list[Problem]) -> None:
    if isinstance(node, list):
        for index, value in enumerate(node):
            _walk(value, f"{key}[{index}]", problems)
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        path = f"{key}.{name}"
        if name == "_target_":
            if not str(value).startswith(_PLUGINS) and check_name(value):
                problems.append(Problem(path, "a config may not build this", value))
        elif "_logging." in path and name in ("class", "()") and not str(value).startswith(_LOGGING):
            problems.append(Problem(path, "a config may not build this", value))
        _walk(value, path, problems)

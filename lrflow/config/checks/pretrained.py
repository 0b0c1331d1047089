"""The architecture of a pretrained model: read from its config.json where the config leaves it open."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.packages import is_installed, missing_package
from lrflow.errors import ConfigError, Problem
from lrflow.hub import find_file, package_named

HUGGINGFACE = "lrflow.huggingface.HuggingFace"

_OF_THE_FILE = ("id2label", "label2id", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map")
"""Keys of a config.json that do not affect the architecture, or that the model sets."""


def fill_architecture(config: DictConfig) -> list[Problem]:
    """Fill in `model.config` from the config.json of a model of transformers, so that a run needs its folder no more.

    Args:
        config: composed config, changed in place.

    Returns:
        The problems of the name and of the file.
    """
    model = config.get("model")
    if not isinstance(model, DictConfig):
        return []
    try:
        node: Any = OmegaConf.to_container(model, resolve=False)
        name = OmegaConf.select(config, "model.name")
    except OmegaConfBaseException:  # reported when the config is resolved
        return []
    if node.get("_target_") != HUGGINGFACE or node.get("config") is not None or not isinstance(name, str):
        return []
    if name == "???":
        return []
    lacking = [package for package in ("transformers", "peft") if not is_installed(package)]
    if lacking and (node.get("lora") or "transformers" in lacking):
        return [missing_package(lacking[0], "model", "huggingface")]
    if (package := package_named(name)) and not is_installed(package):
        return [missing_package(package, "model.name", name)]
    try:
        content = json.loads(find_file(name, "config.json", "model.name").read_text(encoding="utf-8"))
    except ConfigError as error:
        return error.problems
    except (OSError, ValueError) as error:
        return [Problem("model.name", f"its config.json cannot be read: {error}", name)]
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        message = "its config.json has no model_type, so it is no model of transformers"
        return [Problem("model.name", message, name)]
    found = {key: value for key, value in content.items() if key not in _OF_THE_FILE}
    OmegaConf.update(config, "model.config", found, force_add=True)
    return []

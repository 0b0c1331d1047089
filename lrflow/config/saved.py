"""A config as a file: what a run folder keeps, and what a run is rebuilt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import lrflow
from lrflow.config.config import Config
from lrflow.config.files import yaml_problem
from lrflow.config.secrets import redact
from lrflow.config.validation import META
from lrflow.errors import ConfigError, Problem
from lrflow.files import write_whole


def save_config(config: Config, path: Path) -> None:
    """Writes a config, its interpolations unresolved, without secrets.

    Args:
        config: as `validate` gave it.
        path: the file; replaced as a whole.
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
    """Reads a config that `save_config` wrote; `validate` takes it as it is.

    Raises:
        ConfigError: there is no such file, or it holds no config.
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
    """Reads the config that a checkpoint holds, for a run without its config.yaml; what it was composed of is lost.

    Raises:
        ConfigError: it holds none.
    """
    import torch

    try:
        found = OmegaConf.create(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["lrflow"]["config"])
        if isinstance(found, DictConfig) and "optimizer" in found:
            return found
        reason = "it holds none"
    except Exception as error:  # torch's reader raises whatever it stumbles over
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    message = f"there is no config.yaml of its run, and the config in the checkpoint cannot be read: {reason}"
    hint = "put the run's config.yaml back into its folder, the parent of checkpoints/"
    raise ConfigError([Problem("resume", message, str(path), hint)])

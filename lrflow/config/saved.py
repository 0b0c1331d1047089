"""A config as a file: what a run folder keeps, and what a run is rebuilt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

import lrflow
from lrflow.config.config import Config
from lrflow.config.secrets import redact
from lrflow.config.validate import META
from lrflow.errors import ConfigError, Problem


def save_config(config: Config, path: Path) -> None:
    """Writes a config, interpolations unresolved and without secrets.

    Args:
        config: as `validate` gave it.
        path: the file; replaced as a whole.
    """
    content: Any = OmegaConf.to_container(config.source, resolve=False)
    meta = {"version": lrflow.__version__, "choices": config.choices, "overrides": config.overrides}
    if config.run_folder is not None:
        meta["run_folder"] = str(config.run_folder)
    text = OmegaConf.to_yaml(OmegaConf.create(redact({**content, META: meta})))
    part = path.with_name(path.name + ".part")
    part.write_text(f"# The configuration of this run, as it was composed; `{META}` says of what.\n{text}", encoding="utf-8")
    part.replace(path)


def load_config(path: Path) -> DictConfig:
    """Reads a config that `save_config` wrote; `validate` takes it as it is.

    Raises:
        ConfigError: there is no such file, or it holds no config.
    """
    try:
        found = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("config", f"cannot be read: {error}", str(path))]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError([Problem("config", "is no YAML", where=where)]) from None
    if not isinstance(found, DictConfig) or "optimizer" not in found:
        raise ConfigError([Problem("config", "is not the config of a run", str(path))])
    return found

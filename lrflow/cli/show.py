"""What `--cfg` prints: the composed config."""

from __future__ import annotations

import sys

from omegaconf import DictConfig, OmegaConf

from lrflow.cli.arguments import Arguments
from lrflow.config.secrets import redact_text
from lrflow.errors import ConfigError, Problem


def show_config(found: DictConfig, args: Arguments, resolve: bool) -> None:
    """Prints a composed config as YAML, on stdout and without secrets.

    Args:
        found: with Hydra's node.
        args: which part of it.
        resolve: fill interpolations in.

    Raises:
        ConfigError: there is no such part.
    """
    keys = list(map(str, found.keys()))
    names = {"job": [key for key in keys if key != "hydra"], "hydra": ["hydra"], "all": keys}
    part = shown = OmegaConf.masked_copy(found, names[args.cfg or "job"])
    if args.package:
        part = OmegaConf.select(shown, args.package)
        if part is None:
            raise ConfigError([Problem("--package", "the config has nothing there", args.package)])
    text = OmegaConf.to_yaml(part, resolve=resolve) if OmegaConf.is_config(part) else f"{part}\n"
    sys.stdout.write(redact_text(text))

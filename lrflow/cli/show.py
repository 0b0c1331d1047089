"""Print the composed config for `--cfg`."""

from __future__ import annotations

import sys

from omegaconf import DictConfig, OmegaConf

from lrflow.cli.arguments import Arguments
from lrflow.config.secrets import redact_text
from lrflow.errors import ConfigError, Problem


def show_config(found: DictConfig, args: Arguments, resolve: bool) -> None:
    """Print a composed config as YAML on stdout, with secrets masked.

    Args:
        found: composed config, including its `hydra` node.
        args: command line; `cfg` and `package` select the part to print.
        resolve: replace interpolations by their values.

    Raises:
        ConfigError: the config has no key `args.package`.
    """
    keys = list(map(str, found.keys()))
    names = {"job": [key for key in keys if key != "hydra"], "hydra": ["hydra"], "all": keys}
    part = shown = OmegaConf.masked_copy(found, names[args.cfg or "job"])
    if args.package:
        part = OmegaConf.select(shown, args.package)
        if part is None:
            raise ConfigError([Problem("--package", "not a key of the config", args.package)])
    text = OmegaConf.to_yaml(part, resolve=resolve) if OmegaConf.is_config(part) else f"{part}\n"
    sys.stdout.write(redact_text(text))

"""The config of a run: composed from `conf/`, validated as a whole before anything is built, saved and read again."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.config.composition.compose import compose
    from lrflow.config.config import Config
    from lrflow.config.length import declared_horizon
    from lrflow.config.saved import load_config, save_config
    from lrflow.config.targets import instantiate, locate
    from lrflow.config.validation import validate

__all__ = [
    "Config",
    "compose",
    "declared_horizon",
    "instantiate",
    "load_config",
    "locate",
    "save_config",
    "validate",
]

# `--help` reads folders, and needs neither Hydra nor numpy.
__getattr__ = lazily(
    __name__,
    {
        "Config": "config",
        "compose": "composition.compose",
        "declared_horizon": "length",
        "instantiate": "targets",
        "load_config": "saved",
        "locate": "targets",
        "save_config": "saved",
        "validate": "validation",
    },
)

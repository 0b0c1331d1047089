"""The configuration of a run: composed from `conf/`, typed, and checked as a whole before anything is built."""

from lrflow.config.checks import declared_horizon
from lrflow.config.compose import compose
from lrflow.config.config import Config
from lrflow.config.saved import load_config, save_config
from lrflow.config.secrets import redact
from lrflow.config.targets import instantiate, locate
from lrflow.config.validate import validate

__all__ = [
    "Config",
    "compose",
    "declared_horizon",
    "instantiate",
    "load_config",
    "locate",
    "redact",
    "save_config",
    "validate",
]

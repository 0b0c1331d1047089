"""Health: the monitors that watch a run, each with its config node in `health`."""

from lrflow.errors import DivergedError
from lrflow.health.nonfinite import NonFinite
from lrflow.health.sharpness import Sharpness
from lrflow.training.monitor import Monitor, Watched

__all__ = ["DivergedError", "Monitor", "NonFinite", "Sharpness", "Watched"]

"""Monitors of a run's health; each has a config node in `health`."""

from lrflow.errors import DivergedError
from lrflow.health.nonfinite import NonFinite
from lrflow.health.sharpness import Sharpness
from lrflow.training.monitor import Monitor, Watched

__all__ = ["DivergedError", "Monitor", "NonFinite", "Sharpness", "Watched"]

"""Monitors of a run's health; each has a config node in `health`."""

from lrflow.errors import DivergedError
from lrflow.health.detector import Detector
from lrflow.health.diverging import Diverging
from lrflow.health.history import Facts, History
from lrflow.health.nonfinite import NonFinite
from lrflow.health.progress import Overfitting, TooLow
from lrflow.health.sharpness import Sharpness
from lrflow.training.findings import Finding
from lrflow.training.monitor import Monitor, Watched

__all__ = [
    "Detector",
    "DivergedError",
    "Diverging",
    "Facts",
    "Finding",
    "History",
    "Monitor",
    "NonFinite",
    "Overfitting",
    "Sharpness",
    "TooLow",
    "Watched",
]

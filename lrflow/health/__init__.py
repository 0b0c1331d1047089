"""Monitors of a run's health; each has a config node in `health`."""

from lrflow.errors import DivergedError
from lrflow.finding import Finding
from lrflow.health.data_stall import DataStall
from lrflow.health.dead_group import DeadGroup
from lrflow.health.detector import Detector
from lrflow.health.diverging import Diverging
from lrflow.health.history import Facts, History
from lrflow.health.nonfinite import NonFinite
from lrflow.health.progress import Overfitting, Plateau, TooLow
from lrflow.health.sharpness import Sharpness
from lrflow.health.spiking import Spiking, WarmupTooShort
from lrflow.health.too_high import Oscillating, TooHigh
from lrflow.training.monitor import Monitor, Watched

__all__ = [
    "DataStall",
    "DeadGroup",
    "Detector",
    "DivergedError",
    "Diverging",
    "Facts",
    "Finding",
    "History",
    "Monitor",
    "NonFinite",
    "Oscillating",
    "Overfitting",
    "Plateau",
    "Sharpness",
    "Spiking",
    "TooHigh",
    "TooLow",
    "WarmupTooShort",
    "Watched",
]

"""Monitors of a run's health; each has a config node in `health`."""

from typing import TYPE_CHECKING

from lrflow.errors import DivergedError
from lrflow.finding import Finding
from lrflow.imports import lazily

if TYPE_CHECKING:
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
    "DataStall", "DeadGroup", "Detector", "DivergedError", "Diverging", "Facts", "Finding", "History", "Monitor",
    "NonFinite", "Oscillating", "Overfitting", "Plateau", "Sharpness", "Spiking", "TooHigh", "TooLow",
    "WarmupTooShort", "Watched",
]  # fmt: skip

__getattr__ = lazily(__name__, {
    "DataStall": "data_stall", "DeadGroup": "dead_group", "Detector": "detector", "Diverging": "diverging",
    "Facts": "history", "History": "history", "Monitor": "monitors", "NonFinite": "nonfinite",
    "Oscillating": "too_high", "Overfitting": "progress", "Plateau": "progress", "Sharpness": "sharpness",
    "Spiking": "spiking", "TooHigh": "too_high", "TooLow": "progress", "WarmupTooShort": "spiking",
    "Watched": "monitors",
})  # fmt: skip

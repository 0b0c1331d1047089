"""Health: what a run's signals say about its learning rate, and what is done about it."""

from lrflow.health.nonfinite import DivergedError, NonFinite

__all__ = ["DivergedError", "NonFinite"]

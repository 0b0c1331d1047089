"""Optimizers built from groups of parameters."""

from lrflow.optimizers.build import build_optimizer

__all__ = ["build_optimizer"]

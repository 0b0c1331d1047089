"""Optimizers built from groups of parameters."""

from lrflow.optimizers.build import build_optimizer
from lrflow.optimizers.muon import Muon
from lrflow.optimizers.routed import Routed

__all__ = ["Muon", "Routed", "build_optimizer"]

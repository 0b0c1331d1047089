"""Optimizers built from groups of parameters."""

from lrflow.optimizers.asgd import ASGD
from lrflow.optimizers.build import build_optimizer, check_groups, compiles
from lrflow.optimizers.closures import fit_closure
from lrflow.optimizers.muon import Muon
from lrflow.optimizers.routed import Routed, check_members

__all__ = ["ASGD", "Muon", "Routed", "build_optimizer", "check_groups", "check_members", "compiles", "fit_closure"]

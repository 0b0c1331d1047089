"""Optimizers built from groups of parameters, and the traits of optimizer classes, which need no torch."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.optimizers.asgd import ASGD
    from lrflow.optimizers.factory import OfModule, adapt_to_lightning, build_optimizer, check_groups
    from lrflow.optimizers.muon import Muon
    from lrflow.optimizers.routed import Routed, check_members
    from lrflow.optimizers.traits import Traits, traits_of

__all__ = [
    "ASGD", "Muon", "OfModule", "Routed", "Traits", "adapt_to_lightning", "build_optimizer", "check_groups",
    "check_members", "traits_of",
]  # fmt: skip

__getattr__ = lazily(__name__, {
    "ASGD": "asgd", "Muon": "muon", "OfModule": "factory", "Routed": "routed", "Traits": "traits",
    "build_optimizer": "factory",
    "check_groups": "factory", "check_members": "routed", "adapt_to_lightning": "factory", "traits_of": "traits",
})  # fmt: skip
